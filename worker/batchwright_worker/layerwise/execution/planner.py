"""Planned times of units: from profiles at a few batch sizes to layers at any size, corrected by what is measured.

Compute is interpolated between the measured sizes and follows the last two beyond; both engines are planned as slowed
down by each other (they are meant to work at once), and by ratios that follow the measurements: of the whole model, and
of each unit beside it, for batches of about one size. What two measured sizes promise of a third is often wrong (a GPU
takes as long for few rows as for one), so that each size is corrected by its own batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
class _SizePlan:
    """Corrections of compute for batches of one size class; `seen`: units of such batches that have run."""

    compute_ratio: float
    unit_ratios: list[float]
    seen: int = 0


@dataclass(slots=True)
class _ModelPlan:
    profiles: list[Profile]
    resident: frozenset[int] = frozenset()
    fetch_ratio: float = 1.0
    sizes: dict[int, _SizePlan] = field(default_factory=dict)

    def size(self, rows: int) -> _SizePlan:
        """The corrections for this size: its own, or the nearest known one's."""
        wanted = _size_class(rows)
        if wanted in self.sizes:
            return self.sizes[wanted]
        return _nearest(self.sizes, rows) if self.sizes else _SizePlan(1.0, [1.0] * len(self.profiles[0].bytes))

    def own_size(self, rows: int) -> _SizePlan:
        """The same to be corrected: a new size begins with what the nearest one has learned."""
        own = self.sizes.get(_size_class(rows))
        if own is None:
            known = self.size(rows)
            own = _SizePlan(known.compute_ratio, list(known.unit_ratios))
            # Others, on their own threads, may be going through the sizes that there are.
            self.sizes = {**self.sizes, _size_class(rows): own}
        return own


def _size_class(rows: int) -> int:
    """1, 2, 3 to 4, 5 to 8, .. rows."""
    return max(0, rows - 1).bit_length()


@dataclass(slots=True)
class UnitPlans:
    """The planned times of all models of one device."""

    _plans: dict[str, _ModelPlan] = field(default_factory=dict)

    def add(self, model: str, profiles: Sequence[Profile]) -> None:
        """Plan a model from the profiles of its network at one or more batch sizes."""
        self._plans[model] = _ModelPlan(sorted(profiles, key=lambda profile: profile.rows))

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
        size = plan.size(rows)
        slow = max(each.compute_slowdown for each in plan.profiles) * size.compute_ratio
        fetch = profile.fetch_slowdown * plan.fetch_ratio
        return tuple(
            Layer(
                compute=steps_of_seconds(slow * size.unit_ratios[position] * _at(plan.profiles, position, rows)),
                fetch=0 if position in resident else steps_of_seconds(fetch * profile.fetch_s(count)),
                bytes=0 if position in resident else count,
            )
            for position, count in enumerate(profile.bytes)
        )

    def learn(self, record: UnitRecord) -> None:
        """Follow what was measured, a little with every unit."""
        plan = self._plans.get(record.model)
        if plan is None:
            return
        compute, fetch = record.compute_end - record.compute_start, record.fetch_s
        size, planned = plan.own_size(record.rows), seconds_of_steps(record.planned.compute)
        size.seen += 1
        size.compute_ratio = _followed(size.compute_ratio, compute, planned)
        size.unit_ratios[record.position] = _followed(size.unit_ratios[record.position], compute, planned)
        if record.bytes:
            plan.fetch_ratio = _followed(plan.fetch_ratio, fetch, seconds_of_steps(record.planned.fetch))

    def corrected(self, model: str) -> list[Profile]:
        """The model's profiles as they should have been by what has run since; none if they were right, or little has
        run."""
        plan = self._plans[model]
        units = len(plan.profiles[0].bytes)
        seen = {number: size for number, size in plan.sizes.items() if size.seen >= _LEAST_SEEN * units}
        ratios = [ratio for size in seen.values() for ratio in (size.compute_ratio, *size.unit_ratios)]
        if not seen or all(1 / _RIGHT <= each <= _RIGHT for each in (*ratios, plan.fetch_ratio)):
            return []
        return [_corrected(profile, plan.fetch_ratio, _nearest(seen, profile.rows)) for profile in plan.profiles]


def _nearest(sizes: Mapping[int, _SizePlan], rows: int) -> _SizePlan:
    return sizes[min(sizes, key=lambda known: abs(known - _size_class(rows)))]


def _corrected(profile: Profile, fetch_ratio: float, size: _SizePlan) -> Profile:
    return msgspec.structs.replace(
        profile,
        compute_s=[
            seconds * size.compute_ratio * unit
            for seconds, unit in zip(profile.compute_s, size.unit_ratios, strict=True)
        ],
        latency_s=profile.latency_s * fetch_ratio,
        bytes_per_second=profile.bytes_per_second / fetch_ratio,
        spread=0.0,
    )


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
