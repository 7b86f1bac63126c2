"""The recurrence (methods C, "Timing") against units as they ran: a check of execution against the model. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchwright_worker.layerwise.core.steps import seconds_of_steps, steps_of_seconds
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Layer, Prefetch
from batchwright_worker.layerwise.execution.jobs import UnitRecord

__all__ = ["RecurrenceCheck", "check_recurrence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrenceCheck:
    """Makespans from the first arrival to the last compute: as measured, as the recurrence gives it from the measured
    times of every unit, and as it gives it from the planned ones in the same order."""

    measured_s: float
    replayed_s: float
    planned_s: float

    @property
    def error(self) -> float:
        """Share by which the recurrence misses the wall time."""
        return abs(self.replayed_s - self.measured_s) / self.measured_s

    @property
    def plan_error(self) -> float:
        """Share by which the plan misses it."""
        return abs(self.planned_s - self.measured_s) / self.measured_s


def check_recurrence(
    records: Sequence[UnitRecord],
    budget_bytes: float,
    prefetch: Prefetch = Prefetch.WHOLE,
    piece_bytes: int = 1,
) -> RecurrenceCheck:
    """Of all units that ran, in the order of their compute, which is that of their fetch. What a fluid fetch paused is
    no time of its own: the recurrence gives the pauses."""
    if not records:
        raise ValueError("nothing ran")
    origin = min(record.arrival for record in records)
    start = steps_of_seconds(origin)
    measured = Timeline(budget_bytes, prefetch=prefetch, piece_bytes=piece_bytes, origin=start)
    planned = Timeline(budget_bytes, prefetch=prefetch, piece_bytes=piece_bytes, origin=start)
    for record in records:
        layer = Layer(
            compute=steps_of_seconds(record.compute_end) - steps_of_seconds(record.compute_start),
            fetch=steps_of_seconds(record.fetch_s),
            bytes=record.bytes,
        )
        arrival = steps_of_seconds(record.arrival)
        measured.push(layer, arrival)
        planned.push(record.planned, arrival)
    return RecurrenceCheck(
        measured_s=records[-1].compute_end - origin,
        replayed_s=seconds_of_steps(measured.compute_free - start),
        planned_s=seconds_of_steps(planned.compute_free - start),
    )
