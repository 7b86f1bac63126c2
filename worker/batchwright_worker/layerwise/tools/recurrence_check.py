"""The recurrence (methods C, "Timing") against units as they ran: a check of execution against the model. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Layer
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


def check_recurrence(records: Sequence[UnitRecord], budget_bytes: float) -> RecurrenceCheck:
    """Of all units that ran, in the order of their compute, which is that of their fetch."""
    if not records:
        raise ValueError("nothing ran")
    origin = min(record.arrival for record in records)
    measured = Timeline(budget_bytes, origin=origin)
    planned = Timeline(budget_bytes, origin=origin)
    for record in records:
        layer = Layer(
            compute=record.compute_end - record.compute_start,
            fetch=record.fetch_end - record.fetch_start,
            bytes=record.bytes,
        )
        measured.push(layer, record.arrival)
        planned.push(record.planned, record.arrival)
    return RecurrenceCheck(
        measured_s=records[-1].compute_end - origin,
        replayed_s=measured.compute_free - origin,
        planned_s=planned.compute_free - origin,
    )
