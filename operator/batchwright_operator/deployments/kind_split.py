"""How many replicas of a ModelDeployment each kind of accelerator gets; pure.

A replica's kind is sticky: it keeps its kind while that kind may hold it, however the capacities of the others change,
since to move a replica is to stop a pod that serves and to load its models elsewhere. When its pod found no place for
`settings.unfit_seconds`, the replica goes to the best kind that did not just refuse one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RETRY_S = 600.0
"""How long a kind that had no place stays excluded while its processors do not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What the cluster has of one kind: total capacity (images/s, 0 unknown), and how many replicas its devices can
    hold at most (None: shared, such as CPUs)."""

    capacity: float = 0.0
    max_replicas: int | None = None
    processors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentReplicas:
    """What a deployment has of one kind now: how many replicas, how many of them found no place for too long, and
    whether the kind is excluded for new ones because it had no place recently."""

    count: int = 0
    stuck: int = 0
    excluded: bool = False


def split(
    replicas: int, kinds: Sequence[str], supplies: Mapping[str, Supply], current: Mapping[str, CurrentReplicas]
) -> dict[str, int]:
    """Replicas per kind, in the order of `kinds`; they add up to `replicas` unless there is no kind at all.

    New replicas go one by one to the kind where one more has the most capacity, kinds whose devices are all taken by
    this deployment last, kinds unknown to the cluster after those; replicas are removed the other way round,
    those without a place first.
    """
    if not kinds:
        return {}
    plan = {kind: current[kind].count if kind in current else 0 for kind in kinds}
    stuck = {kind: min(plan[kind], current[kind].stuck) if kind in current else 0 for kind in kinds}
    # This order matters: a replica without a place is removed before it is moved, and moved before new ones are added,
    # so that what nobody needs any more is never started elsewhere first.
    while sum(plan.values()) > replicas:
        _remove_one(plan, stuck, supplies)
    _move_stuck(plan, stuck, supplies, current)
    while sum(plan.values()) < replicas:
        plan[_best(plan, supplies, _open(plan, current) or kinds)] += 1
    return plan


def _open(plan: Mapping[str, int], current: Mapping[str, CurrentReplicas]) -> list[str]:
    """Kinds that had no pod without a place recently."""
    return [kind for kind in plan if not (kind in current and (current[kind].excluded or current[kind].stuck))]


def _move_stuck(
    plan: dict[str, int],
    stuck: Mapping[str, int],
    supplies: Mapping[str, Supply],
    current: Mapping[str, CurrentReplicas],
) -> None:
    """Without another kind they stay where they are: a pod that waits there is placed as soon as something is free."""
    others = _open(plan, current)
    for kind, count in stuck.items():
        for _ in range(count if others else 0):
            plan[kind] -= 1
            plan[_best(plan, supplies, others)] += 1


def _remove_one(plan: dict[str, int], stuck: dict[str, int], supplies: Mapping[str, Supply]) -> None:
    """One without a place if there is one, else one of the kind that has least capacity per replica."""
    waiting = [kind for kind in plan if stuck[kind]]
    if waiting:
        kind = waiting[-1]
        stuck[kind] -= 1
    else:
        used = [kind for kind in plan if plan[kind]]
        kind = min(reversed(used), key=lambda each: _rank(each, plan[each] - 1, supplies))
    plan[kind] -= 1


def _best(plan: Mapping[str, int], supplies: Mapping[str, Supply], among: Sequence[str]) -> str:
    return max(among, key=lambda kind: _rank(kind, plan[kind], supplies))


def _rank(kind: str, count: int, supplies: Mapping[str, Supply]) -> tuple[int, float, int]:
    """Of a kind for one replica more than `count`: free devices before full ones before kinds without a node; then
    capacity per replica; then fewest replicas (which also spreads over kinds of unknown capacity)."""
    # A replica works on one processor or device, so while there are free ones it has the capacity of one of them, not
    # the kind's whole capacity over the replicas so far: by that, four slow CPUs beat a device that is twice as fast as
    # each of them.
    supply = supplies.get(kind, Supply())
    if not supply.processors:
        return (0, 0.0, -count)
    has_room = supply.max_replicas is None or count < supply.max_replicas
    places = supply.processors if supply.max_replicas is None else supply.max_replicas
    return (2 if has_room else 1, supply.capacity / max(count + 1, places), -count)
