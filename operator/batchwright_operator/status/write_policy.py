"""When a ModelDeployment's status is worth a write; pure.

Every write goes to etcd and to everybody who watches, and what pods report differs in every window of every pod:
written as it comes, a cluster in which nothing happens would never be quiet. So there are three classes: what the
cluster says (conditions, pods, placements) at once, but for counts while many objects are under way; words that pods
report of their models (batch sizes, what is loaded, whether a target is met) after some seconds; numbers that are
measured after a minute, and only where a pooled one has moved. What is reported of a single pod is carried along and
never a reason. All objects together share a bound: of many, each waits for longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339, unix
from batchwright_operator.reconcile.applied import STAMP

MEASURED: Final = frozenset(
    {
        "latencyMilliseconds",
        "p95",
        "throughput",
        "queueLength",
        "trendZ",
        "tuning",
    }
)
"""Fields of `models` and `summary` (with everything below them) that change with every window."""
REPORTED_CONDITIONS: Final = frozenset({"ModelsReady", "LatencyTargetMet"})
OF_THE_CLUSTER: Final = frozenset({"reason", "nodes"})
"""Fields of `summary` that no pod reports."""
WRITES_PER_S: Final = 4.0
"""Of all objects of a kind together, for what pods report; of InferenceJobs, of those that have not ended, for their
progress."""
PROGRESS_WRITES_PER_S: Final = 5.0
"""Of all objects of a kind that are under way together, for how far they are. When 500 deployments of ten pods start at
once, each pod that gets a node or is ready is another status of its deployment, which costs the API server more than
the pod does: of 120, statuses were a fourth of its work (measured)."""
PROGRESS_MAX_S: Final = 15.0
"""So late a count may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WritePolicy:
    """Least time between a write and the next one for words that pods report, and for measured numbers of which a
    pooled one moved by more than `threshold`. `objects`: how many share `WRITES_PER_S`; `under_way`: how many are
    on their way to what their specs say, and share `PROGRESS_WRITES_PER_S`."""

    words_s: float = 10.0
    numbers_s: float = 60.0
    threshold: float = 0.10
    objects: int = 1
    under_way: int = 0

    @property
    def progress_s(self) -> float:
        """Least time between two writes that say how far it is. None is asked for while few are under way."""
        return min(PROGRESS_MAX_S, float(self.under_way // PROGRESS_WRITES_PER_S))

    def interval_s(self, *, only_numbers: bool) -> float:
        """Seconds since the last write after which the next one may come."""
        return max(self.numbers_s if only_numbers else self.words_s, self.objects / WRITES_PER_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteDecision:
    """`status`: what to write, None for nothing now. `why`: for logs and tests. `due_in_s`: when a write is to come."""

    status: Raw | None
    why: str
    due_in_s: float | None = None


def write_decision(old: Raw, new: Raw, now: float, policy: WritePolicy) -> WriteDecision:
    """Both without or with `lastUpdatedTime`; the decision's status carries it: when it was written."""
    before, stamp = {name: value for name, value in old.items() if name != STAMP}, old.get(STAMP)
    after = {name: value for name, value in new.items() if name != STAMP}
    if before == after:
        return WriteDecision(status=None, why="nothing changed")
    written = after | {STAMP: rfc3339(now)}
    if _of_the_cluster(before) != _of_the_cluster(after):
        left_s = _left_s(stamp, policy.progress_s, now) if _verdict(before) == _verdict(after) else 0.0
        if left_s > 0:
            return WriteDecision(status=None, why="others are under way too", due_in_s=left_s)
        return WriteDecision(status=written, why="something changed")
    only_numbers = _words(before) == _words(after)
    if only_numbers and not _moved(before, after, policy.threshold):
        return WriteDecision(status=None, why="measured values moved too little")
    interval_s = policy.interval_s(only_numbers=only_numbers)
    left_s = _left_s(stamp, interval_s, now)
    if left_s > 0:
        # Held back, not dropped: without `due_in_s` nothing would wake this object again if it stayed as it is.
        return WriteDecision(status=None, why="what pods report was written just now", due_in_s=left_s)
    return WriteDecision(status=written, why="measured values moved" if only_numbers else "pods report something else")


def _left_s(stamp: Any, interval_s: float, now: float) -> float:
    """How long after the last write the next one is still to wait."""
    # In the future it was written by another clock: it is waited for once more at most.
    return min(interval_s, (unix(stamp) or float("-inf")) + interval_s - now)


def _verdict(status: Raw) -> Any:
    """What whoever waits for the object waits for: the conditions without their words, and of which generation."""
    conditions = status.get("conditions") or ()
    return status.get("observedGeneration"), [(each.get("type"), each.get("status")) for each in conditions]


def _of_the_cluster(status: Raw) -> Raw:
    """Without what pods report."""
    reported = {"models", "conditions", "summary", "replicaStatuses", "placements"}
    rest = {name: value for name, value in status.items() if name not in reported}
    conditions = [each for each in status.get("conditions") or () if each.get("type") not in REPORTED_CONDITIONS]
    return rest | {
        "conditions": conditions,
        "summary": {name: value for name, value in (status.get("summary") or {}).items() if name in OF_THE_CLUSTER},
        "replicaStatuses": [_without(each, "models") for each in status.get("replicaStatuses") or ()],
        "placements": [_without(each, "observedThroughput") for each in status.get("placements") or ()],
    }


def _words(status: Raw) -> Any:
    """What pods report, but for numbers that are measured and for what only one pod says."""
    conditions = [each for each in status.get("conditions") or () if each.get("type") in REPORTED_CONDITIONS]
    return _without_measured([status.get("models"), status.get("summary"), conditions])


def _without(entry: Raw, name: str) -> Raw:
    return {key: value for key, value in entry.items() if key != name}


def _without_measured(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_measured(each) for name, each in value.items() if name not in MEASURED}
    if isinstance(value, list):
        return [_without_measured(each) for each in value]
    return value


def _moved(old: Raw, new: Raw, threshold: float) -> bool:
    """Did a pooled value come, go, or move by more than the threshold (relative to the larger)?"""
    before, after = dict(_numbers(old)), dict(_numbers(new))
    if before.keys() != after.keys():
        return True
    return any(_differ(before[path], after[path], threshold) for path in before)


def _numbers(status: Raw) -> Iterator[tuple[tuple[object, ...], float | str]]:
    yield from _measured(status.get("models") or [], ())


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
