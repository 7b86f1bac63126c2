"""Planned times of units: from profiles at a few batch sizes to layers at any size, corrected by what is measured.

Compute is interpolated between the measured sizes and follows the last two beyond; both engines are planned as slowed
down by each other (they are meant to work at once), and by ratios that follow the measurements: of the whole model, and
of each unit beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from batchwright_worker.layerwise.core.steps import seconds_of_steps, steps_of_seconds
from batchwright_worker.layerwise.core.values import Layer
from batchwright_worker.layerwise.execution.jobs import UnitRecord
from batchwright_worker.layerwise.profiling.profiles import Profile

__all__ = ["UnitPlans"]

_FOLLOW_SHARE: Final = 0.05
"""Share of a new measurement in the model's ratio; a unit's own follows as fast, from what the model's leaves."""
_LARGEST_RATIO: Final = 1000.0
"""Planned times are corrected by this factor at most, either way: a profile of a busy machine can be that wrong."""
_RIGHT: Final = 1.25
"""A profile that is off by less than this factor stays as it is."""
_LEAST_SEEN: Final = 20
"""Batches that a correction is made from: a ratio follows with a twentieth of each."""


@dataclass(slots=True)
class _ModelPlan:
    profiles: list[Profile]
    resident: frozenset[int] = frozenset()
    compute_ratio: float = 1.0
    fetch_ratio: float = 1.0
    unit_ratios: list[float] = field(default_factory=list)
    seen: int = 0
    """Units that have run."""


@dataclass(slots=True)
class UnitPlans:
    """The planned times of all models of one device."""

    _plans: dict[str, _ModelPlan] = field(default_factory=dict)

    def add(self, model: str, profiles: Sequence[Profile]) -> None:
        """Plan a model from the profiles of its network at one or more batch sizes."""
        ordered = sorted(profiles, key=lambda profile: profile.rows)
        self._plans[model] = _ModelPlan(ordered, unit_ratios=[1.0] * len(ordered[0].bytes))

    def keep(self, model: str, resident: frozenset[int]) -> None:
        """These of its units need no fetch."""
        self._plans[model].resident = resident

    def remove(self, model: str) -> None:
        del self._plans[model]

    def layers(self, model: str, rows: int, *, as_if_none_stayed: bool = False) -> tuple[Layer, ...]:
        """The units of a batch of this size, in steps and bytes."""
        plan = self._plans[model]
        resident = frozenset[int]() if as_if_none_stayed else plan.resident
        profile = plan.profiles[0]
        slow = max(each.compute_slowdown for each in plan.profiles) * plan.compute_ratio
        fetch = profile.fetch_slowdown * plan.fetch_ratio
        return tuple(
            Layer(
                compute=steps_of_seconds(slow * plan.unit_ratios[position] * _at(plan.profiles, position, rows)),
                fetch=0 if position in resident else steps_of_seconds(fetch * profile.fetch_s(size)),
                bytes=0 if position in resident else size,
            )
            for position, size in enumerate(profile.bytes)
        )

    def learn(self, record: UnitRecord) -> None:
        """Follow what was measured, a little with every unit."""
        plan = self._plans.get(record.model)
        if plan is None:
            return
        compute, fetch = record.compute_end - record.compute_start, record.fetch_s
        plan.seen += 1
        planned, unit = seconds_of_steps(record.planned.compute), plan.unit_ratios
        plan.compute_ratio = _followed(plan.compute_ratio, compute, planned)
        unit[record.position] = _followed(unit[record.position], compute, planned)
        if record.bytes:
            plan.fetch_ratio = _followed(plan.fetch_ratio, fetch, seconds_of_steps(record.planned.fetch))

    def corrected(self, model: str) -> list[Profile]:
        """The model's profiles as they should have been by what has run since; none if they were right, or little has
        run."""
        plan = self._plans[model]
        ratios = (plan.compute_ratio, plan.fetch_ratio, *plan.unit_ratios)
        if plan.seen < _LEAST_SEEN * len(plan.unit_ratios) or all(1 / _RIGHT <= each <= _RIGHT for each in ratios):
            return []
        return [
            msgspec.structs.replace(
                profile,
                compute_s=[
                    seconds * plan.compute_ratio * unit
                    for seconds, unit in zip(profile.compute_s, plan.unit_ratios, strict=True)
                ],
                latency_s=profile.latency_s * plan.fetch_ratio,
                bytes_per_second=profile.bytes_per_second / plan.fetch_ratio,
                spread=0.0,
            )
            for profile in plan.profiles
        ]


def _followed(ratio: float, measured: float, planned: float) -> float:
    if planned <= 0 or measured <= 0:
        return ratio
    wanted = ratio * measured / planned
    # One outlier (a page fault, a preempted thread) counts as four times the ratio at most.
    moved = ratio + _FOLLOW_SHARE * (min(max(wanted, ratio / 4), ratio * 4) - ratio)
    return min(max(moved, 1 / _LARGEST_RATIO), _LARGEST_RATIO)


def _at(profiles: Sequence[Profile], position: int, rows: int) -> float:
    """Seconds of a unit at this size, interpolated, or extrapolated from the last two; never below a quarter of the
    smaller one."""
    if len(profiles) == 1:
        return profiles[0].compute_s[position] * rows / profiles[0].rows
    above = next((index for index, each in enumerate(profiles) if each.rows >= rows), len(profiles) - 1)
    upper, lower = profiles[max(above, 1)], profiles[max(above, 1) - 1]
    share = (rows - lower.rows) / (upper.rows - lower.rows)
    low, high = lower.compute_s[position], upper.compute_s[position]
    return max(low + share * (high - low), 0.25 * min(low, high))
