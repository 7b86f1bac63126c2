"""An accelerator of sleeps: both engines take the planned time, memory is counted. For tests and demonstrations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from batchwright_worker.inference.requests import Array
from batchwright_worker.layerwise.core.steps import seconds_of_steps
from batchwright_worker.layerwise.execution.jobs import Interval, LayerwiseBatch, UnitJob
from batchwright_worker.layerwise.memory.ring import Ring

__all__ = ["EmulatedAccelerator"]

Outputs = Callable[[LayerwiseBatch], Mapping[str, Array]]
_NOTHING: Final[Mapping[str, Array]] = {}


class _SleepEngine:
    """An engine that is busy for the job's planned time."""

    ahead = 0

    def __init__(self, seconds: Callable[[UnitJob], float]) -> None:
        self._seconds = seconds

    def start(self, job: UnitJob) -> None:
        """The time passes in `finish`."""

    def finish(self, job: UnitJob) -> Interval:
        start = time.monotonic()
        end = start + (self._seconds(job) if job.batch.error is None else 0.0)
        while (rest := end - time.monotonic()) > 0:
            time.sleep(rest)
        return Interval(start, time.monotonic())


class EmulatedAccelerator:
    """`outputs` makes those of a batch (raises: the batch fails)."""

    chained = False

    def __init__(self, budget_bytes: int, outputs: Outputs = lambda _batch: _NOTHING) -> None:
        self.ring = Ring(budget_bytes)
        self.memory = _SleepEngine(lambda job: seconds_of_steps(job.batch.layers[job.position].fetch))
        self.compute = _SleepEngine(lambda job: seconds_of_steps(job.batch.layers[job.position].compute))
        self._outputs = outputs

    def begin(self, batch: LayerwiseBatch) -> None:
        """Nothing to prepare."""

    def end(self, batch: LayerwiseBatch) -> Mapping[str, Array]:
        return self._outputs(batch)
