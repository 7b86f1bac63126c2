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
_PIECES: Final = 16
"""Of what fills the memory, unless told otherwise."""


class _PieceEngine:
    """Each piece of a fetch takes its share of the planned time."""

    ahead = 0

    def __init__(self) -> None:
        self._begun: float | None = None
        self._due = 0.0
        self._pauses = 0

    def start(self, job: UnitJob) -> None:
        # A sleep ends late; the next piece begins when the one before should have ended, unless it waited for room.
        start = self._due if job.started and job.pauses == self._pauses else time.monotonic()
        self._pauses = job.pauses
        self._begun = start if self._begun is None else self._begun
        seconds = seconds_of_steps(job.batch.layers[job.position].fetch) if job.batch.error is None else 0.0
        seconds *= (job.placed - job.started) / job.bytes if job.bytes else 1.0
        self._due = start + seconds
        _slept(self._due - time.monotonic())
        job.fetch_s += (self._due if job.placed < job.bytes else time.monotonic()) - start

    def finish(self, job: UnitJob) -> Interval:
        assert self._begun is not None
        begun, self._begun = self._begun, None
        return Interval(begun, time.monotonic())


class _SleepEngine:
    """Busy for the job's planned time."""

    ahead = 0

    def start(self, job: UnitJob) -> None:
        """The time passes in `finish`."""

    def finish(self, job: UnitJob) -> Interval:
        start = time.monotonic()
        seconds = seconds_of_steps(job.batch.layers[job.position].compute) if job.batch.error is None else 0.0
        return Interval(start, start + _slept(seconds))


def _slept(seconds: float) -> float:
    """Sleeps at least so long; how long it was."""
    start = time.monotonic()
    while (rest := start + seconds - time.monotonic()) > 0:
        time.sleep(rest)
    return time.monotonic() - start


class EmulatedAccelerator:
    """`outputs` makes those of a batch (raises: the batch fails)."""

    chained = False

    def __init__(
        self, budget_bytes: int, outputs: Outputs = lambda _batch: _NOTHING, piece_bytes: int | None = None
    ) -> None:
        self.ring = Ring(budget_bytes)
        self.piece_bytes = piece_bytes or max(1, budget_bytes // _PIECES)
        self.memory = _PieceEngine()
        self.compute = _SleepEngine()
        self._outputs = outputs

    def begin(self, batch: LayerwiseBatch) -> None:
        """Nothing to prepare."""

    def end(self, batch: LayerwiseBatch) -> Mapping[str, Array]:
        return self._outputs(batch)

    def release(self, batch: LayerwiseBatch) -> None:
        """Nothing was staged."""
