"""How many replicas of a ModelDeployment each kind of accelerator gets.

A slot is sticky: it stays with its kind while that kind may hold it, however the shares of the others change. When its
pod found no place for `settings.unfit_seconds`, it goes to the best kind that did not just refuse one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RETRY_S = 600.0
"""How long a kind that had no place stays excluded while its processors do not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What the cluster has of one kind: total capacity (images/s, 0 unknown), and how many pods its devices can
    hold at most (None: shared, such as CPUs)."""

    capacity: float = 0.0
    slots: int | None = None
    processors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledSplit:
    """What a deployment has of one kind now: its slots, how many of them found no place for too long, and
    whether the kind is excluded for new slots because it had no place recently."""

    count: int = 0
    stuck: int = 0
    excluded: bool = False


def split(
    replicas: int, kinds: Sequence[str], supplies: Mapping[str, Supply], current: Mapping[str, SettledSplit]
) -> dict[str, int]:
    """Slots per kind, in the order of `kinds`; they add up to `replicas` unless there is no kind at all.

    New slots go one by one to the kind with the most capacity per slot (d'Hondt), kinds whose devices are all
    taken by this deployment last, kinds unknown to the cluster after those; slots are taken back the other way
    round, those without a place first.
    """
    if not kinds:
        return {}
    plan = {kind: current[kind].count if kind in current else 0 for kind in kinds}
    stuck = {kind: min(plan[kind], current[kind].stuck) if kind in current else 0 for kind in kinds}
    while sum(plan.values()) > replicas:
        _take_one(plan, stuck, supplies)
    _move_stuck(plan, stuck, supplies, current)
    while sum(plan.values()) < replicas:
        plan[_best(plan, supplies, _willing(plan, current) or kinds)] += 1
    return plan


def _willing(plan: Mapping[str, int], current: Mapping[str, SettledSplit]) -> list[str]:
    """Kinds that had no pod without a place recently."""
    return [kind for kind in plan if not (kind in current and (current[kind].excluded or current[kind].stuck))]


def _move_stuck(
    plan: dict[str, int], stuck: Mapping[str, int], supplies: Mapping[str, Supply], current: Mapping[str, SettledSplit]
) -> None:
    others = _willing(plan, current)
    for kind, count in stuck.items():
        for _ in range(count if others else 0):
            plan[kind] -= 1
            plan[_best(plan, supplies, others)] += 1


def _take_one(plan: dict[str, int], stuck: dict[str, int], supplies: Mapping[str, Supply]) -> None:
    """Give one slot back: one without a place if there is one, else of the kind that has least per slot."""
    waiting = [kind for kind in plan if stuck[kind]]
    if waiting:
        kind = waiting[-1]
        stuck[kind] -= 1
    else:
        held = [kind for kind in plan if plan[kind]]
        kind = min(reversed(held), key=lambda each: _share(each, plan[each] - 1, supplies))
    plan[kind] -= 1


def _best(plan: Mapping[str, int], supplies: Mapping[str, Supply], among: Sequence[str]) -> str:
    return max(among, key=lambda kind: _share(kind, plan[kind], supplies))


def _share(kind: str, held: int, supplies: Mapping[str, Supply]) -> tuple[int, float, int]:
    """Rank of a kind for one slot more than `held`: free devices before full ones before kinds without a node;
    then capacity per slot; then fewest slots (also what shares out kinds of unknown capacity)."""
    supply = supplies.get(kind, Supply())
    if not supply.processors:
        return (0, 0.0, -held)
    has_room = supply.slots is None or held < supply.slots
    return (2 if has_room else 1, supply.capacity / (held + 1), -held)
