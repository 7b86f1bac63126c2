"""Logs of format 1 (version 0.1.0) as today's: the same calls, with other words for the scheduler's values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from batchwright_worker.dispatch_log.calls import Event
from batchwright_worker.scheduler.order import FairShareState

FORMAT: Final = 1
CLASSES: Final = {
    "Apart": "IsolatedBucket",
    "Offer": "QueueRequest",
    "Plan": "ModelConfig",
    "Rules": "TuningConfig",
    "Waiting": "QueuedRequest",
}
"""Format 1's word for a class -> today's; the others are as they were."""
STATE_CLASSES: Final = {("batchwright_worker.sidecar.order", "Turns"): FairShareState}
"""What the state of a scheduler that has no model yet is made of. A log that begins in mid-life holds more, with
other fields than today's: that one is refused."""


def upgraded(event: Event) -> Event:
    """The event as this version would have written it."""
    return Event(event.t, event.call, _renamed(event.args), _renamed(event.gave))


def _renamed(value: Any) -> Any:
    if isinstance(value, list):
        return [_renamed(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    kind = value.get("is")
    return {**{key: _renamed(each) for key, each in value.items()}, **({"is": CLASSES.get(kind, kind)} if kind else {})}
