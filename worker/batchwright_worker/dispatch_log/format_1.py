"""Logs of format 1 (builds before 0.1.0) as today's: the same calls, with other words and shapes for some. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from batchwright_worker.dispatch_log.calls import LoggedCall
from batchwright_worker.scheduler.order import FairShareState

FORMAT: Final = 1
CLASSES: Final = {
    "Apart": "IsolatedBucket",
    "DeviceBooks": "DeviceConfig",
    "Offer": "QueueRequest",
    "Plan": "ModelConfig",
    "Rules": "TuningConfig",
    "Waiting": "QueuedRequest",
}
"""Format 1's word for a class -> today's; the others are as they were."""
CALLS: Final = {
    "batch_lingers": "batch_suspect",
    "claim": "reserve",
    "did_not_fit": "load_did_not_fit",
    "let_in": "unblock",
    "load_kills": "load_killed_runtime",
    "measured": "memory_measured",
    "resides": "assume_resident",
    "retains": "retention_measured",
    "tried": "warm_up_ran",
}
FIELDS: Final = {("Plan", "rules"): "tuning", ("Waiting", "gone"): "removed"}
"""Format 1's word for a class and a field of it -> today's word for the field."""
STATE_CLASSES: Final = {("batchwright_worker.sidecar.order", "Turns"): FairShareState}
"""What the state of a scheduler that has no model yet is made of. A log that begins in mid-life holds more, with
other fields than today's: that one is refused."""
STATE_FIELDS: Final = {"_turns": "_fair_share", "_load_turns": "_load_share"}


def state(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a scheduler as this version would have written it."""
    return {STATE_FIELDS.get(name, name): value for name, value in fields.items()}


def upgraded(logged: LoggedCall) -> LoggedCall:
    """The call as this version would have written it."""
    args = _renamed(logged.args)
    if logged.call == "add_device":
        args = _device(*args)
    return LoggedCall(logged.t, CALLS.get(logged.call, logged.call), args, _renamed(logged.gave))


def _device(device: dict[str, Any]) -> list[Any]:
    """A device was added with its whole state, of which only `down` was ever given beyond what is known of it."""
    down = device.pop("down", False)
    return [device, not down]


def _renamed(value: Any) -> Any:
    if isinstance(value, list):
        return [_renamed(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    kind = value.get("is", "")
    fields = {FIELDS.get((kind, key), key): _renamed(each) for key, each in value.items()}
    return fields | {"is": CLASSES.get(kind, kind)} if kind else fields
