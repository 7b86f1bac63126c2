"""What becomes of the parts of one batch: answers to callers, counters, and what the scheduler learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchwright_worker.engine.counters import ModelCounters
from batchwright_worker.engine.isolation import Part
from batchwright_worker.engine.pending import PendingRequest
from batchwright_worker.inference.errors import InferenceError, ModelFailed
from batchwright_worker.inference.requests import Array, InferResult
from batchwright_worker.inference.runtime import RunResult
from batchwright_worker.scheduler.devices import Device
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ServedModel
from batchwright_worker.scheduler.steps import Batch


@dataclass(slots=True, kw_only=True)
class BatchOutcome:
    """`isolation.Report` of one batch. `settle(ticket, result)` and `fail(ticket, error)` answer a caller."""

    batch: Batch
    scheduler: Scheduler
    served: ServedModel
    books: Device
    counters: ModelCounters
    clock: Callable[[], float]
    wall: Callable[[], float]
    fail: Callable[[PendingRequest, InferenceError], None]
    settle: Callable[[PendingRequest, InferResult], None]
    epoch: int
    rows: int
    """Of the parts; the batch may have been larger before callers left."""
    whole: RunResult | None = None
    """The result of the batch as dispatched, if it went well."""
    last: RunResult | None = None
    """The result of the newest run, whose parts are being answered."""
    now: float = 0.0
    """When that run ended."""
    shared: dict[Any, Any] = field(default_factory=dict)

    def device_lost(self) -> bool:
        """The books' epoch tells."""
        return self.books.epoch != self.epoch

    def model_gone(self) -> bool:
        """Is the model not there: did the load fail that the batch was put behind, or is it unloaded behind it?"""
        return not self.device_lost() and not self.books.holds(self.batch.run.model)

    def ran(self, rows: int, result: RunResult, whole: bool) -> None:
        """Count the run; only a batch that went well as a whole teaches the tuner."""
        self.last, self.now = result, self.clock()
        self.counters.ran(rows, result, self.served.curve(self.batch.run.bucket).seconds(rows))
        self.counters.last_inference = self.wall()
        if result.memory is not None:
            self.scheduler.measured(self.books.name, result.memory)
        if whole and rows == self.batch.run.rows:
            self.whole = result

    def done(self, part: Part, outputs: Mapping[str, Array]) -> None:
        """Hand rows to their caller; the last ones complete the answer."""
        pending = part.pending
        if not pending.waits or not pending.add(part.start, part.rows, outputs):
            return
        request, now = pending.request, self.now
        try:
            result = pending.result(now, self.shared)
        except (KeyError, ValueError) as trouble:
            self.fail(pending, ModelFailed(f"model {self.served.name} gave outputs that do not fit: {trouble}"))
            return
        self.counters.answered(request.rows, result.queue_ms / 1e3, result.run_ms / 1e3, self.last)
        self.scheduler.answered(request.model, request.rows, now - request.arrival)
        self.settle(pending, result)

    def failed(self, part: Part, message: str) -> None:
        """The model raised on these rows: their caller's own error, which names the row where it is known."""
        request = part.pending.request
        row = part.start if part.rows == 1 else None
        where = f" on row {row}" if row is not None and request.rows > 1 else ""
        self.fail(part.pending, ModelFailed(f"model {self.served.name} failed{where}: {message}", row=row))

    def out_of_memory(self, rows: int) -> int:
        """Learn the cap, so that no later batch meets the same wall."""
        return self.scheduler.out_of_memory(self.books.name, self.served.name, rows)
