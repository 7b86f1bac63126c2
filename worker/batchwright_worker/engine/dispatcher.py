"""Performs what the scheduler decides for the rows that wait: batches, loads, retries.

Woken by events only (method B6): an arrival, the end of a batch or a load, a device lost or back, the end of a window
while there is traffic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from batchwright_worker.engine.batch_outcome import BatchOutcome
from batchwright_worker.engine.counters import ModelCounters
from batchwright_worker.engine.decision_loop import DecisionLoop
from batchwright_worker.engine.isolation import Part, PartsLost, hand_out, run_isolated, wrong_outputs
from batchwright_worker.engine.loader import Loader
from batchwright_worker.engine.pending import PendingRequest
from batchwright_worker.engine.poison_search import PoisonSearch
from batchwright_worker.engine.state_publisher import StatePublisher
from batchwright_worker.inference.errors import DeadlineExceeded, InferenceError, ModelFailed, Refused
from batchwright_worker.inference.requests import InferResult
from batchwright_worker.inference.runtime import PromptRuntime, RunResult, Runtime, RuntimeTrouble
from batchwright_worker.scheduler.dispatch import LoadModel, Nothing
from batchwright_worker.scheduler.queues import Bucket, QueuedRequest
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.steps import Batch

_TIMER_S = 0.001
"""uvloop's timers count milliseconds: one that is asked for less would fire at once, and again, and again."""
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Dispatcher:
    """One per engine; owns the tickets (callers that wait) and the tasks (batches and loads in progress)."""

    scheduler: Scheduler
    runtimes: Mapping[str, Runtime]
    loader: Loader
    publisher: StatePublisher
    decisions: DecisionLoop
    counters: Mapping[str, ModelCounters]
    clock: Callable[[], float]
    tickets: dict[int, PendingRequest] = field(default_factory=dict)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no caller waits."""
    suspects: PoisonSearch = field(default_factory=PoisonSearch)
    _wakes: float | None = None
    _waker: asyncio.TimerHandle | None = None

    # --- callers ---

    def admit(self, key: int, pending: PendingRequest) -> None:
        """A request is in the queue under `key`."""
        pending.keys.append(key)
        if not self.tickets:
            self.idle.clear()
        self.tickets[key] = pending
        self.counters[pending.request.model].pending += 1
        self.decisions.wake()

    def settle(self, pending: PendingRequest, answer: InferResult | InferenceError) -> None:
        """Give a caller that waits its answer."""
        self._forget(pending)
        try:
            pending.done(answer)
        except Exception:
            _log.exception("a caller's own callback failed")

    def fail(self, pending: PendingRequest, error: InferenceError, refused: str = "") -> None:
        """Answer with an error, unless it is answered already; `refused`: the reason to count it under."""
        if not pending.waits:
            return
        counters = self.counters[pending.request.model]
        counters.fail.add(self.clock() - pending.request.arrival)
        if refused:
            counters.refused[refused] += 1
        else:
            counters.failed += 1
            counters.failed_rows += pending.request.rows
        self.settle(pending, error)

    def cancel(self, pending: PendingRequest) -> None:
        """The caller has gone: rows that have not started are skipped, the others' results go nowhere."""
        if pending.waits:
            self.counters[pending.request.model].cancelled += 1
            self._forget(pending)

    def _forget(self, pending: PendingRequest) -> None:
        pending.waits = False
        self.counters[pending.request.model].pending -= 1
        for key in pending.keys:
            self.tickets.pop(key, None)
            self.scheduler.cancel(key)
        if not self.tickets:
            self.idle.set()

    def reject(self, keys: list[int], error: InferenceError) -> None:
        """Answer the callers of these queue entries, which will not be served."""
        for key in keys:
            if (pending := self.tickets.get(key)) is not None:
                self.fail(pending, error, "Unavailable")

    # --- deciding ---

    def decide(self) -> None:
        """Start all that can be started now."""
        while True:
            step = self.scheduler.next(self.clock())
            for key in step.late:
                if (pending := self.tickets.get(key)) is not None:
                    self.fail(pending, _late(pending, self.clock()), "LateAtDispatch")
            match step.action:
                case Batch() as batch:
                    self.counters[batch.run.model].dispatched[batch.run.reason] += 1
                    self._begin(batch)
                case LoadModel() as load:
                    self.counters[load.model].dispatched[load.reason] += 1
                    self.decisions.spawn(self._load(load))
                case Nothing():
                    self._wake_at(step.wake_at)
                    return

    def _wake_at(self, when: float | None) -> None:
        """Look again then. An earlier timer for the same moment goes on."""
        if when == self._wakes:
            return
        if self._waker is not None:
            self._waker.cancel()
            self._waker = None
        self._wakes = when
        if when is not None:
            delay = max(_TIMER_S, when - self.clock())
            self._waker = asyncio.get_running_loop().call_later(delay, self._wake)

    def _wake(self) -> None:
        self._wakes = self._waker = None
        self.decisions.now()

    # --- batches ---

    def _begin(self, batch: Batch) -> None:
        """Run it; where all goes well, as nearly always, no task is needed."""
        run, now = batch.run, self.clock()
        parts = [
            Part(self.tickets[part.key], part.start, part.rows) for part in batch.slices if part.key in self.tickets
        ]
        for part in parts:
            part.pending.started(now, run.rows)
        outcome = self._outcome(batch, sum(part.rows for part in parts))
        if run.unload or not parts:
            self._take_care(outcome, parts, None)
            return
        rows = [part.pending.rows_of(part.start, part.rows) for part in parts]
        runtime, ended = self.runtimes[run.device], partial(self._first_ended, outcome, parts)
        if isinstance(runtime, PromptRuntime):
            runtime.begin(run.model, rows, outcome.rows, ended)
        else:
            self.decisions.spawn(runtime.run(run.model, rows, outcome.rows)).add_done_callback(partial(_told, ended))

    def _outcome(self, batch: Batch, rows: int) -> BatchOutcome:
        run = batch.run
        books = self.scheduler.devices[run.device]
        return BatchOutcome(
            batch=batch,
            scheduler=self.scheduler,
            served=self.scheduler.models[run.model],
            books=books,
            counters=self.counters[run.model],
            clock=self.clock,
            wall=self.publisher.wall,
            fail=self.fail,
            settle=self.settle,
            epoch=books.epoch,
            rows=rows,
        )

    def _first_ended(self, outcome: BatchOutcome, parts: list[Part], ended: RunResult | Exception) -> None:
        """The device waits: its next batch goes out before this one's callers are answered."""
        if self.decisions.closed:
            return
        trouble = ended if isinstance(ended, Exception) else wrong_outputs(ended, outcome.rows)
        if trouble is not None and outcome.model_gone():
            self._retry(outcome.batch, PartsLost([], parts, str(trouble)))
            self._ended(outcome.batch, outcome)
            self.decisions.wake()
            return
        if trouble is not None:
            self._take_care(outcome, parts, trouble)
            return
        assert isinstance(ended, RunResult)
        outcome.ran(outcome.rows, ended, True)
        if not outcome.device_lost():
            self._ended(outcome.batch, outcome)
        self.decisions.now()
        try:
            hand_out(parts, ended, outcome)
        except Exception as bug:
            self._broken(outcome.batch, parts, bug)

    def _take_care(self, outcome: BatchOutcome, parts: list[Part], trouble: Exception | None) -> None:
        self.scheduler.batch_lingers(outcome.batch)
        self.decisions.spawn(self._run_with_care(outcome, parts, trouble))

    async def _run_with_care(self, outcome: BatchOutcome, parts: list[Part], trouble: Exception | None) -> None:
        """A batch that needs room first, or whose first run has ended in trouble."""
        batch, run = outcome.batch, outcome.batch.run
        try:
            if trouble is None:
                await self.loader.unload(run.device, run.unload)
            await run_isolated(self.runtimes[run.device], run.model, parts, outcome, trouble)
        except PartsLost as lost:
            self._retry(batch, lost)
        except RuntimeTrouble as lost:
            self._retry(batch, PartsLost([], parts, str(lost)))
        except Exception as bug:
            self._broken(batch, parts, bug)
        finally:
            if not outcome.device_lost():
                self._ended(batch, outcome)
            self.decisions.wake()

    def _broken(self, batch: Batch, parts: list[Part], bug: Exception) -> None:
        run = batch.run
        _log.error("batch of %s on %s", run.model, run.device, exc_info=bug)
        for part in parts:
            self.fail(part.pending, ModelFailed(f"model {run.model} failed: {type(bug).__name__}: {bug}"))

    def _ended(self, batch: Batch, outcome: BatchOutcome) -> None:
        if outcome.whole is None:
            self.scheduler.batch_failed(batch, self.clock())
        else:
            whole = outcome.whole
            self.suspects.ran(batch.run.model)
            self.scheduler.batch_ended(batch, whole.device_seconds, whole.batch_bytes, self.clock())
            self.scheduler.retains(batch, whole.retained_bytes)

    def _retry(self, batch: Batch, lost: PartsLost) -> None:
        """The runtime died under these rows: once more on the next one, in their old place in the queue; those that it
        died under in halves apart from each other, so that what kills it is found."""
        model, bucket = batch.run.model, batch.run.bucket
        self.counters[model].retried += 1
        for part in lost.others:
            self._requeue(part, model, bucket)
        tickets = {id(part.pending): part.pending for part in lost.suspects if part.pending.waits}
        if not tickets:
            return
        sentence = self.suspects.lost(model, bucket, [pending.deaths_alone for pending in tickets.values()])
        places = [bucket for size, bucket in zip(sentence.sizes, sentence.buckets, strict=True) for _ in range(size)]
        group = dict(zip(tickets, places, strict=False))
        for pending in tickets.values():
            pending.deaths_alone += sentence.alone
            if sentence.guilty:
                self.fail(pending, ModelFailed(f"{sentence.reason} ({lost})"))
        for part in lost.suspects:
            self._requeue(part, model, group.get(id(part.pending), bucket))

    def _requeue(self, part: Part, model: str, bucket: Bucket) -> None:
        pending = part.pending
        if not pending.waits:
            return
        entry = QueuedRequest(
            key=0,
            rows=part.start + part.rows,
            start=part.start,
            arrival=pending.request.arrival,
            bucket=bucket,
            priority=pending.request.priority,
            drop_after=pending.request.deadline,
        )
        key = self.scheduler.requeue(entry, model)
        pending.keys.append(key)
        self.tickets[key] = pending

    async def _load(self, load: LoadModel) -> None:
        await self.loader.load(load)
        self.decisions.wake()

    def close(self) -> None:
        """No more waiting for batches to fill."""
        if self._waker is not None:
            self._waker.cancel()


def _told(ended: Callable[[RunResult | Exception], None], running: asyncio.Future[RunResult]) -> None:
    """A coroutine's end as a callback's argument."""
    if running.cancelled():
        return
    trouble = running.exception()
    if trouble is None or isinstance(trouble, Exception):
        ended(trouble or running.result())


def _late(pending: PendingRequest, now: float) -> InferenceError:
    request = pending.request
    waited = (now - request.arrival) * 1e3
    if request.deadline is not None:
        return DeadlineExceeded(f"the deadline cannot be met any more after waiting {waited:.0f} ms")
    return Refused(
        f"after waiting {waited:.0f} ms the latency target cannot be met any more", retry_after_s=waited / 1e3
    )
