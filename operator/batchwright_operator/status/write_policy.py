"""When a status is worth a write: what changed at once, what is only measured at most once per interval; pure.

Every write goes to etcd and to everybody who watches, and measured values differ in every window of every object:
written as they come, a cluster in which nothing happens would never be quiet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339, unix

MEASURED: Final = frozenset(
    {
        "latencyMilliseconds",
        "p95Milliseconds",
        "p95",
        "throughput",
        "observedThroughput",
        "queueLength",
        "trendZ",
        "tuning",
    }
)
"""Fields (with everything below them) that change with every window."""
STAMP: Final = "lastUpdatedTime"


@dataclass(frozen=True, slots=True, kw_only=True)
class WritePolicy:
    """Measured values are written when one moved by more than `threshold` and `interval_s` passed."""

    interval_s: float = 10.0
    threshold: float = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteDecision:
    """`status`: what to write, None for nothing now. `why`: for logs and tests. `due_in_s`: when a write is to come."""

    status: Raw | None
    why: str
    due_in_s: float | None = None


def write_decision(old: Raw, new: Raw, now: float, policy: WritePolicy) -> WriteDecision:
    """Both without or with `lastUpdatedTime`; the decision's status carries it: when measured values were written."""
    before, stamp = {name: value for name, value in old.items() if name != STAMP}, old.get(STAMP)
    after = {name: value for name, value in new.items() if name != STAMP}
    if before == after:
        return WriteDecision(status=None, why="nothing changed")
    only_measured = _without_measured(before) == _without_measured(after)
    moved = _moved(before, after, policy.threshold)
    if only_measured and not moved:
        return WriteDecision(status=None, why="measured values moved too little")
    age_s = now - (unix(stamp) or float("-inf"))
    if only_measured and age_s < policy.interval_s:
        # Held back, not dropped: without `due_in_s` nothing would wake this object again if it stayed as it is.
        due_in_s = policy.interval_s - age_s
        return WriteDecision(status=None, why="measured values were written just now", due_in_s=due_in_s)
    # A write for another reason carries measured values along, but those that moved too little keep their stamp: a
    # batch size that turns often must not put off the next measured write.
    fresh = moved or not isinstance(stamp, str)
    return WriteDecision(
        status=after | {STAMP: rfc3339(now) if fresh else stamp},
        why="measured values moved" if only_measured else "something changed",
    )


def _without_measured(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_measured(each) for name, each in value.items() if name not in MEASURED}
    if isinstance(value, list):
        return [_without_measured(each) for each in value]
    return value


def _moved(old: Raw, new: Raw, threshold: float) -> bool:
    """Did a measured value come, go, or move by more than the threshold (relative to the larger)?"""
    before, after = dict(_measured(old, ())), dict(_measured(new, ()))
    if before.keys() != after.keys():
        return True
    return any(_differ(before[path], after[path], threshold) for path in before)


def _measured(value: Any, path: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], float | str]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _measured(each, (*path, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _measured(each, (*path, index))
    elif any(name in MEASURED for name in path):
        yield path, _number(value)


def _number(value: Any) -> float | str:
    """A word is itself: another one is a move."""
    try:
        return float(value)
    except ValueError:
        return str(value)


def _differ(old: float | str, new: float | str, threshold: float) -> bool:
    if isinstance(old, str) or isinstance(new, str):
        return old != new
    return abs(new - old) > threshold * max(abs(old), abs(new), 1.0)
