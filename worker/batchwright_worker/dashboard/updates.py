"""What changed between two overviews, as one event of the page: of a cluster of 1,000 nodes only what moved travels.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from batchwright_worker.dashboard.overview import Overview

SECTIONS: Final = ("processors", "deployments", "jobs")
"""Lists of an overview whose items have an `id`; everything else of it is its head."""
Encoded = Mapping[str, Mapping[str, bytes]]
"""Section -> id -> the item as JSON."""

_encode = msgspec.json.Encoder().encode


def encoded(overview: Overview) -> Encoded:
    """Every item as JSON, and the head (without the time) as an item of section `head`."""
    sections: dict[str, dict[str, bytes]] = {
        section: {item.id: _encode(item) for item in getattr(overview, section)} for section in SECTIONS
    }
    whole = msgspec.to_builtins(
        msgspec.structs.replace(overview, processors=[], deployments=[], jobs=[], time=0.0), str_keys=True
    )
    head = {name: value for name, value in whole.items() if name not in (*SECTIONS, "time")}
    return {**sections, "head": {"head": _encode(head)}}


def update(before: Encoded | None, after: Encoded, time: float) -> bytes:
    """The event's data: {"time", "reset", "head", "set": {section: {id: item}}, "drop": {section: [ids]}}; without
    `before` it is all of it, and the page forgets what it had."""
    body: dict[str, Any] = {"time": time}
    old: Encoded = before or {}
    if before is None:
        body["reset"] = True
    if old.get("head") != after["head"]:
        body["head"] = msgspec.Raw(after["head"]["head"])
    changed, gone = {}, {}
    for section in SECTIONS:
        had, has = old.get(section, {}), after[section]
        moved = {key: msgspec.Raw(item) for key, item in has.items() if had.get(key) != item}
        lost = [key for key in had if key not in has]
        if moved:
            changed[section] = moved
        if lost:
            gone[section] = lost
    if changed:
        body["set"] = changed
    if gone:
        body["drop"] = gone
    return _encode(body)
