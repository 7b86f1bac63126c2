"""How many replicas of a ModelDeployment each kind of accelerator gets; pure.

A replica's kind is sticky: it keeps its kind while that kind may hold it, however the capacities of the others change,
since to move a replica is to load its models elsewhere. Only where the user prefers kinds does it move to a better one
that has room. When its pod found no place for
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
    taken_by_others: int = 0
    """So many of `max_replicas` are not to be had, as far as it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentReplicas:
    """What a deployment has of one kind now: how many replicas, how many of them found no place for too long, and
    whether the kind is excluded for new ones because it had no place recently."""

    count: int = 0
    stuck: int = 0
    excluded: bool = False


def split(
    replicas: int,
    kinds: Sequence[str],
    supplies: Mapping[str, Supply],
    current: Mapping[str, CurrentReplicas],
    *,
    preference: Sequence[str] = (),
    may_move: bool = False,
) -> dict[str, int]:
    """Replicas per kind, in the order of `kinds`; they add up to `replicas` unless there is no kind at all.

    New replicas go one by one to the kind where one more has the most capacity, kinds whose devices are all taken by
    this deployment last, kinds unknown to the cluster after those; replicas are removed the other way round,
    those without a place first. `preference` names kinds from the best on; among kinds with room it comes before
    capacity, and with `may_move` up to a quarter of the replicas move to a better one.
    """
    if not kinds:
        return {}
    plan = {kind: current[kind].count if kind in current else 0 for kind in kinds}
    stuck = {kind: min(plan[kind], current[kind].stuck) if kind in current else 0 for kind in kinds}
    ranking = _Ranking(supplies, preference)
    # This order matters: a replica without a place is removed before it is moved, and moved before new ones are added,
    # so that what nobody needs any more is never started elsewhere first.
    while sum(plan.values()) > replicas:
        _remove_one(plan, stuck, ranking)
    _move_stuck(plan, stuck, ranking, current)
    while sum(plan.values()) < replicas:
        plan[ranking.best(plan, _open(plan, current) or kinds)] += 1
    if preference and may_move and not any(stuck.values()):
        _improve(plan, ranking, current, max(1, replicas // 4))
    return plan


@dataclass(frozen=True, slots=True)
class _Ranking:
    supplies: Mapping[str, Supply]
    preference: Sequence[str]

    def of(self, kind: str, count: int) -> tuple[int, int, float, int]:
        """Of a kind for one replica more than `count`: free devices before full ones before kinds without a node; then
        the user's preference, capacity per replica, fewest replicas (which also spreads over kinds of unknown
        capacity)."""
        supply = self.supplies.get(kind, Supply())
        if not supply.processors:
            return (0, self.wish(kind), 0.0, -count)
        # A replica works on one processor or device, so while there are free ones it has the capacity of one of them,
        # not the kind's whole capacity over the replicas so far: by that, four slow CPUs beat a device that is twice as
        # fast as each of them.
        places = supply.processors if supply.max_replicas is None else supply.max_replicas
        has_room = supply.max_replicas is None or count < supply.max_replicas
        return (2 if has_room else 1, self.wish(kind), supply.capacity / max(count + 1, places), -count)

    def wish(self, kind: str) -> int:
        """The larger, the better; the same for all kinds that are not named."""
        return -self.preference.index(kind) if kind in self.preference else -len(self.preference)

    def best(self, plan: Mapping[str, int], among: Sequence[str]) -> str:
        return max(among, key=lambda kind: self.of(kind, plan[kind]))

    def has_place(self, kind: str, count: int) -> bool:
        """For one more than `count`, beside what others hold."""
        supply = self.supplies.get(kind, Supply())
        if not supply.processors:
            return False
        return supply.max_replicas is None or count < supply.max_replicas - supply.taken_by_others


def _improve(plan: dict[str, int], ranking: _Ranking, current: Mapping[str, CurrentReplicas], at_most: int) -> None:
    """Moves replicas to kinds that the user likes better and that have a place."""
    for _ in range(at_most):
        better = [kind for kind in _open(plan, current) if ranking.has_place(kind, plan[kind])]
        if not better:
            return
        best = ranking.best(plan, better)
        worse = [kind for kind, count in plan.items() if count and ranking.wish(kind) < ranking.wish(best)]
        if not worse:
            return
        plan[min(worse, key=lambda kind: ranking.of(kind, plan[kind] - 1))] -= 1
        plan[best] += 1


def _open(plan: Mapping[str, int], current: Mapping[str, CurrentReplicas]) -> list[str]:
    """Kinds that had no pod without a place recently."""
    return [kind for kind in plan if not (kind in current and (current[kind].excluded or current[kind].stuck))]


def _move_stuck(
    plan: dict[str, int],
    stuck: Mapping[str, int],
    ranking: _Ranking,
    current: Mapping[str, CurrentReplicas],
) -> None:
    """Without another kind they stay where they are: a pod that waits there is placed as soon as something is free."""
    others = _open(plan, current)
    for kind, count in stuck.items():
        for _ in range(count if others else 0):
            plan[kind] -= 1
            plan[ranking.best(plan, others)] += 1


def _remove_one(plan: dict[str, int], stuck: dict[str, int], ranking: _Ranking) -> None:
    """One without a place if there is one, else one of the kind that has least capacity per replica."""
    waiting = [kind for kind in plan if stuck[kind]]
    if waiting:
        kind = waiting[-1]
        stuck[kind] -= 1
    else:
        used = [kind for kind in plan if plan[kind]]
        kind = min(reversed(used), key=lambda each: ranking.of(each, plan[each] - 1))
    plan[kind] -= 1
