"""What becomes of one batch: answers to callers, counters, and what the scheduler learns."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from batchwright_worker.engine.counters import Answers
from batchwright_worker.engine.parts import EngineParts
from batchwright_worker.engine.pending import Part
from batchwright_worker.inference.errors import ModelFailed, ModelUnavailable
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import RunResult, RuntimeBusy
from batchwright_worker.scheduler.steps import Batch

_LOG = logging.getLogger(__name__)
Unload = Callable[[str, tuple[str, ...]], Awaitable[None]]
_NONE: Final[frozenset[str]] = frozenset()


class BatchOutcome:
    """The `isolation.IsolationReport` of one batch. `parts`: its rows whose callers still waited when it began; `rows`
    counts these, so the batch may have been larger when it was decided. `unload` takes models, by device and names, out
    of memory and measures what is free then."""

    __slots__ = (
        "_counters",
        "_device",
        "_ended_at",
        "_engine",
        "_epoch",
        "_served",
        "_shared",
        "_unload",
        "_whole",
        "batch",
        "began",
        "parts",
        "rows",
        "unbatched",
    )  # fmt: skip

    def __init__(self, engine: EngineParts, batch: Batch, unload: Unload) -> None:
        self._unload = unload
        run, by_key = batch.run, engine.requests.by_key
        self.batch = batch
        self.began = engine.clock()
        self.parts = [Part(by_key[one.key], one.start, one.rows) for one in batch.slices if one.key in by_key]
        self.rows = sum(part.rows for part in self.parts)
        self._engine = engine
        self._device = engine.scheduler.devices[run.device]
        self._served = engine.scheduler.models[run.model]
        self._counters = engine.counters[run.model]
        signature = engine.signatures.get(run.model)
        self.unbatched = _NONE if signature is None else signature.unbatched_outputs
        self._epoch = self._device.epoch
        self._whole: RunResult | None = None
        """The result of the batch as dispatched, if it went well."""
        self._ended_at = 0.0
        """When the newest run ended, whose parts are being answered."""
        self._shared: dict[Any, Any] = {}

    def device_lost(self) -> bool:
        """Has the runtime died since? By the epoch: a new process may be up again by now."""
        return self._device.epoch != self._epoch

    def model_gone(self) -> bool:
        """Is the model not there: did the load fail that the batch was put behind, or is it unloaded behind it?"""
        return not self.device_lost() and not self._device.holds(self.batch.run.model)

    def limit_s(self, rows: int) -> float:
        """See `IsolationReport.limit_s`."""
        return self._served.run_limit_s(self.batch.run.bucket, rows)

    def ran(self, rows: int, result: RunResult, whole: bool) -> None:
        """Count the run; only a batch that went well as a whole, with all rows that were decided, teaches the tuner:
        halves and leftovers would look like a model that is slow per row."""
        self._ended_at = self._engine.clock()
        run = self.batch.run
        self._counters.ran(
            rows,
            result,
            self.batch.predicted_s if rows == run.rows else self._served.curve(run.bucket).seconds(rows),
        )
        self._counters.last_inference = self._engine.wall()
        if result.memory is not None:
            self._engine.scheduler.memory_measured(self._device.name, result.memory)
        if whole and rows == self.batch.run.rows:
            self._whole = result

    def ended(self) -> bool:
        """Report the end of the batch to the scheduler; did it run well as a whole?"""
        scheduler, now, whole = self._engine.scheduler, self._engine.clock(), self._whole
        if whole is None:
            scheduler.batch_failed(self.batch, now)
            return False
        scheduler.batch_ended(self.batch, whole.device_seconds, whole.batch_bytes, now)
        scheduler.retention_measured(self.batch, whole.retained_bytes)
        return True

    def hand_out(self, parts: Sequence[Part], result: RunResult) -> None:
        """Answer the parts of a run: with their rows of the outputs, or the error of their first bad row."""
        errors, at, outputs = result.row_errors, 0, result.outputs
        answers = Answers(result.input_s + result.output_s, self._counters.latency_counts)
        try:
            for part in parts:
                end = at + part.rows
                bad = next((row for row in range(at, end) if row in errors), None) if errors else None
                if bad is not None:
                    self.failed(Part(part.pending, part.start + bad - at, 1), errors[bad])
                elif part.pending.waits:
                    self._done(part, self._cut(outputs, at, end), answers)
                at = end
        finally:
            self._counters.answered(answers, result)

    def _cut(self, outputs: Mapping[str, Array], start: int, end: int) -> Mapping[str, Array]:
        """The outputs of some rows of a run; those without a batch dimension are everyone's."""
        cut, unbatched = {}, self.unbatched
        for name, array in outputs.items():
            cut[name] = array if name in unbatched else array[start:end]
        return cut

    def failed(self, part: Part, message: str) -> None:
        """The model raised on these rows: their caller's own error, which names the row where it is known."""
        request = part.pending.request
        row = part.start if part.rows == 1 else None
        where = f" on row {row}" if row is not None and request.rows > 1 else ""
        error = ModelFailed(f"model {self._served.name} failed{where}: {message}", row=row)
        self._engine.requests.fail(part.pending, error)

    def turned_away(self, part: Part, busy: RuntimeBusy) -> None:
        """See `IsolationReport`."""
        error = ModelUnavailable(f"model {self._served.name}: {busy}", retry_after_s=busy.retry_after_s)
        self._engine.requests.fail(part.pending, error, "Unavailable")

    def broken(self, bug: Exception) -> None:
        """A bug of ours: log it, and answer everyone who still waits, so that no caller hangs."""
        run = self.batch.run
        _LOG.error("batch of %s on %s", run.model, run.device, exc_info=bug)
        for part in self.parts:
            error = ModelFailed(f"model {run.model} failed: {type(bug).__name__}: {bug}")
            self._engine.requests.fail(part.pending, error)

    def out_of_memory(self, rows: int) -> int:
        """Learn the cap, so that no later batch meets the same wall."""
        return self._engine.scheduler.out_of_memory(self._device.name, self._served.name, rows)

    async def make_room(self) -> bool:
        """See `IsolationReport`."""
        if self.device_lost():
            return False
        victim = self._engine.scheduler.make_room(self._device.name, self._served.name, self._engine.clock())
        if victim is None:
            return False
        _LOG.info("one row of %s does not fit on %s: %s makes room", self._served.name, self._device.name, victim)
        await self._unload(self._device.name, (victim,))
        return True

    def _done(self, part: Part, outputs: Mapping[str, Array], answers: Answers) -> None:
        """Outputs of a part's rows; the last ones complete the answer."""
        pending, ended_at = part.pending, self._ended_at
        request, rows = pending.request, part.rows
        try:
            if rows == request.rows:
                pending.rows_left = 0
                result = pending.whole_result(ended_at, outputs, self._shared)
            elif pending.add(part.start, rows, outputs):
                result = pending.result(ended_at, self._shared)
            else:
                self._engine.scheduler.answered_in_part(request.model, rows)
                return
        except (KeyError, ValueError) as trouble:
            error = ModelFailed(f"model {self._served.name} gave outputs that do not fit: {trouble}")
            self._engine.requests.fail(pending, error)
            return
        latency_s = ended_at - request.arrival
        run_s = result.run_ms / 1e3
        answers.add(request.rows, latency_s - run_s, run_s)
        self._engine.scheduler.answered(request.model, rows, latency_s)
        self._engine.requests.answer(pending, result)
