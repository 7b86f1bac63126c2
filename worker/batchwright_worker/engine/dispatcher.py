"""Performs what the scheduler decides for the rows that wait: begins batches and loads, and answers late requests.

Woken by events only (method B6): an arrival, the end of a batch or a load, a device lost or back, the end of a window
while there is traffic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from batchwright_worker.engine import refusals
from batchwright_worker.engine.batch_outcome import BatchOutcome
from batchwright_worker.engine.isolation import PartsLost, run_isolated, wrong_outputs
from batchwright_worker.engine.lifecycle import ModelLifecycle
from batchwright_worker.engine.parts import EngineParts
from batchwright_worker.engine.pending import PendingRequest
from batchwright_worker.engine.retries import Retries
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.inference.runtime import PromptRuntime, RunResult, RuntimeTrouble
from batchwright_worker.scheduler.dispatch import LoadModel, Nothing
from batchwright_worker.scheduler.offers import due_by_target
from batchwright_worker.scheduler.steps import Batch


@dataclass(slots=True)
class Dispatcher:
    """One per engine. A batch that runs well needs no task: the runtime calls back. A batch that needs more than that
    (unloads before it, trouble after it) gets one."""

    engine: EngineParts
    lifecycle: ModelLifecycle
    retries: Retries

    def decide(self) -> float | None:
        """Start everything that can be started now; when to decide again without an event, None for never."""
        engine = self.engine
        while True:
            step = engine.scheduler.next(engine.clock())
            for key in step.late:
                if (pending := engine.requests.by_key.get(key)) is not None:
                    engine.requests.fail(pending, self._late(pending), "LateAtDispatch")
            for key in step.displaced:
                if (pending := engine.requests.by_key.get(key)) is not None:
                    self._displaced(pending)
            match step.action:
                case Batch() as batch:
                    engine.counters[batch.run.model].dispatched[batch.run.reason] += 1
                    self._begin(batch)
                case LoadModel() as load:
                    engine.counters[load.model].dispatched[load.reason] += 1
                    engine.decisions.spawn(self.lifecycle.load(load))
                case Nothing():
                    return step.wake_at

    def _late(self, pending: PendingRequest) -> InferenceError:
        request, now = pending.request, self.engine.clock()
        served = self.engine.scheduler.models[request.model]
        return refusals.late(request, now, due_by_target(served, pending.bucket, request.rows, request.arrival, now))

    def _displaced(self, pending: PendingRequest) -> None:
        model = pending.request.model
        wait_s = self.engine.scheduler.expected_wait_s(model, self.engine.clock())
        self.engine.requests.fail(pending, refusals.displaced(self.engine.models[model], wait_s), "QueueFull")

    def _begin(self, batch: Batch) -> None:
        run, now = batch.run, self.engine.clock()
        outcome = BatchOutcome(self.engine, batch, self.lifecycle.loader.make_room)
        parts = outcome.parts
        rows = [part.pending.started(part.start, part.rows, now, run.rows) for part in parts]
        if run.unload or not parts:
            self._take_care(outcome, None)
            return
        runtime, ended = self.engine.runtimes[run.device], partial(self._first_run_ended, outcome)
        if isinstance(runtime, PromptRuntime):
            runtime.begin(run.model, rows, outcome.rows, ended, outcome.limit_s(outcome.rows))
        else:
            limit_s = outcome.limit_s(outcome.rows)
            running = self.engine.decisions.spawn(runtime.run(run.model, rows, outcome.rows, limit_s))
            running.add_done_callback(partial(_call_with_result, ended))

    def _first_run_ended(self, outcome: BatchOutcome, ended: RunResult | Exception) -> None:
        if self.engine.decisions.closed:
            return
        trouble = ended if isinstance(ended, Exception) else wrong_outputs(ended, outcome.rows, outcome.unbatched)
        if trouble is not None:
            self._first_run_failed(outcome, trouble)
            return
        assert isinstance(ended, RunResult)
        outcome.ran(outcome.rows, ended, True)
        if not outcome.device_lost():
            self._ended(outcome)
        # The device waits: its next batch is chosen and handed over before the callers of this one are answered.
        self.engine.decisions.decide_now()
        try:
            outcome.hand_out(outcome.parts, ended)
        except Exception as bug:
            outcome.broken(bug)

    def _first_run_failed(self, outcome: BatchOutcome, trouble: Exception) -> None:
        if not outcome.model_gone():
            self._take_care(outcome, trouble)
            return
        # A batch may be put behind the load of its model, or its model be unloaded behind it, while the device still
        # works on what was before. Where that load fails, or the unload comes first, the rows are not to blame.
        self._retry(outcome, PartsLost([], outcome.parts, str(trouble)))
        self._ended(outcome)
        self.engine.decisions.wake()

    def _take_care(self, outcome: BatchOutcome, trouble: Exception | None) -> None:
        # Said before the first await: the model must stay in memory until its bad rows are found.
        self.engine.scheduler.batch_suspect(outcome.batch)
        self.engine.decisions.spawn(self._run_with_care(outcome, trouble))

    async def _run_with_care(self, outcome: BatchOutcome, trouble: Exception | None) -> None:
        """Run a batch that needs room first, or whose first run has ended in `trouble`."""
        run = outcome.batch.run
        try:
            if trouble is None:
                await self.lifecycle.loader.unload(run.device, run.unload)
            await run_isolated(self.engine.runtimes[run.device], run.model, outcome.parts, outcome, trouble)
        except PartsLost as lost:
            self._retry(outcome, lost)
        except RuntimeTrouble as lost:
            # The unload before the first run was lost: no row of this batch has run, so none is searched.
            self._retry(outcome, PartsLost([], outcome.parts, str(lost)))
        except Exception as bug:
            outcome.broken(bug)
        finally:
            # Also when cancelled: a batch that the scheduler believes to run would hold its device forever. After a
            # loss the device's new epoch has forgotten the batch already.
            if not outcome.device_lost():
                self._ended(outcome)
            self.engine.decisions.wake()

    def _retry(self, outcome: BatchOutcome, lost: PartsLost) -> None:
        rest_s = self.retries.retry(outcome.batch, lost, outcome.began)
        if rest_s:
            self.lifecycle.rest(outcome.batch.run.model, str(lost), rest_s)

    def _ended(self, outcome: BatchOutcome) -> None:
        if outcome.ended():
            self.retries.search.ran(outcome.batch.run.model)


def _call_with_result(ended: Callable[[RunResult | Exception], None], running: asyncio.Future[RunResult]) -> None:
    """A coroutine's end as a callback's argument."""
    if running.cancelled():
        return
    trouble = running.exception()
    if trouble is None or isinstance(trouble, Exception):
        ended(trouble or running.result())
