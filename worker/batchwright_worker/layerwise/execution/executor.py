"""Runs batches of several models on one device, unit by unit, in the order that `LayerScheduler` decides.

Two threads, one per engine, and one lock. The memory engine's thread decides whenever its engine is free (C1), waits
until the unit has room, fetches it and queues its compute; the compute engine's thread runs units in that order and
gives their memory back. What is measured corrects the timeline that the next decision is taken from. A batch that fails
is taken out: those of its units that are queued already pass through both engines without work.

Fluid prefetch: a fetch begins when the first piece of the unit has room, stands still when the memory is full, and goes
on at the next retirement. On a chained device room is given on as soon as the compute that frees it is queued, and the
copy waits for that on the device; answers are brought back on a third thread, so that compute is queued meanwhile.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from batchwright_worker.layerwise.core.policy import Policy
from batchwright_worker.layerwise.core.scheduler import LayerScheduler
from batchwright_worker.layerwise.core.steps import steps_of_seconds
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import ModelRequest, Prefetch
from batchwright_worker.layerwise.execution.jobs import Accelerator, Interval, LayerwiseBatch, UnitJob, UnitRecord

__all__ = ["EngineTotals", "Executor", "ExecutorBrokenError"]

_MOST_QUEUED: Final = 64
"""Units that wait for compute, beyond which nothing is decided: so many hide any fetch, and each decision looks at all
of them."""
_QUEUED_WITHOUT_FETCH: Final = 4
"""The same where no candidate has anything to fetch: the memory engine gains nothing by being ahead, and who comes
later would wait behind what is decided."""


class ExecutorBrokenError(RuntimeError):
    """It runs nothing any more: closed, or an engine of its device has failed for a reason that no batch explains."""


@dataclass(slots=True)
class EngineTotals:
    """Seconds since the start. Idle: an engine waited although a batch was there: compute for weights, memory for room.
    `decision_s`: time spent deciding."""

    compute_busy_s: float = 0.0
    compute_idle_s: float = 0.0
    memory_busy_s: float = 0.0
    memory_idle_s: float = 0.0
    decision_s: float = 0.0
    units: int = 0
    """That did their work, as `bytes`: of a batch that has failed the rest passes through without."""
    bytes: int = 0
    pauses: int = 0
    """Fetches that stood still half-way for want of room, and went on (fluid prefetch)."""


class Executor:
    """`submit` from any thread; `close` when all is done. `on_record` is called under the lock for every unit that ran;
    `on_broken` once, when the device has failed and nothing will run any more (all batches have been settled then)."""

    def __init__(
        self,
        device: Accelerator,
        policy: Policy,
        on_record: Callable[[UnitRecord], None] = lambda _record: None,
        on_broken: Callable[[BaseException], None] = lambda _error: None,
        prefetch: Prefetch = Prefetch.WHOLE,
    ) -> None:
        origin = steps_of_seconds(time.monotonic())
        timeline = Timeline(
            device.ring.capacity, prefetch=prefetch, piece_bytes=device.piece_bytes, origin=origin, live=True
        )
        self.totals = EngineTotals()
        self._device = device
        self._scheduler = LayerScheduler(timeline, policy)
        self._on_record = on_record
        self._on_broken = on_broken
        self._changed = threading.Condition()
        self._batches: dict[int, LayerwiseBatch] = {}
        self._orders = itertools.count()
        self._pending: UnitJob | None = None
        self._to_compute: deque[UnitJob] = deque()
        self._computing: deque[UnitJob] = deque()
        self._answers: queue.SimpleQueue[LayerwiseBatch | None] = queue.SimpleQueue()
        self._memory_free = self._compute_free = time.monotonic()
        self._closing = False
        self._broken: BaseException | None = None
        works = [("memory", self._fetch_all), ("compute", self._compute_all)]
        if device.chained:
            works.append(("answers", self._answer_all))
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"layerwise {name}", daemon=True)
            for name, work in works
        ]
        for thread in self._threads:
            thread.start()

    def stage(self, batch: LayerwiseBatch) -> None:
        """Bring a batch's inputs to the device, before it is submitted. Raises what is wrong with them."""
        self._device.begin(batch)

    def submit(self, batch: LayerwiseBatch) -> None:
        """Take a batch, staged or not. Raises BudgetTooSmall, or what is wrong with its inputs; then `settled` is not
        called."""
        if batch.state is None:
            self.stage(batch)
        with self._changed:
            if self._closing or self._broken is not None:
                raise ExecutorBrokenError("the executor is closed") from self._broken
            batch.arrival = batch.arrival or time.monotonic()
            batch.order = next(self._orders)
            arrival = steps_of_seconds(batch.arrival)
            request = ModelRequest(model=batch.model, layers=batch.layers, arrival=arrival, order=batch.order)
            self._scheduler.submit(request)
            self._batches[batch.order] = batch
            self._changed.notify_all()

    def deciding_paused(self) -> AbstractContextManager[object]:
        """No decision is taken within: batches that are submitted there become candidates all at once."""
        return self._changed

    def use(self, policy: Policy, prefetch: Prefetch | None = None) -> None:
        """Decide by this policy, and fetch in this way, from now on."""
        with self._changed:
            self._scheduler.policy = policy
            if prefetch is not None:
                self._scheduler.timeline.prefetch = prefetch

    @property
    def policy(self) -> Policy:
        """In force now."""
        return self._scheduler.policy

    @property
    def prefetch(self) -> Prefetch:
        """In force now."""
        return self._scheduler.timeline.prefetch

    def wait_idle(self, model: str | None = None, at_most_s: float | None = None) -> None:
        """Until no batch (of this model) is here, or for so long."""

        def idle() -> bool:
            return all(model not in (None, each.model) for each in self._batches.values())

        with self._changed:
            self._changed.wait_for(idle, at_most_s)

    def wait_begun(self, at_most_s: float) -> bool:
        """Until none of the batches that are here now is any more; did that happen in time?"""
        with self._changed:
            begun = set(self._batches)
            return self._changed.wait_for(lambda: begun.isdisjoint(self._batches), at_most_s)

    @property
    def capacity(self) -> int:
        """Bytes for weights in flight."""
        return self._device.ring.capacity

    def close(self) -> None:
        """Ends the threads when they have run what was submitted."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.name.endswith("answers"):
                # Behind the compute engine's thread, which has queued the last answer.
                self._answers.put(None)
            thread.join()

    def _guarded(self, work: Callable[[], None]) -> None:
        """An error that no job explains (a device that is gone) fails all batches: nobody waits forever."""
        try:
            work()
        except BaseException as error:
            with self._changed:
                if self._broken is not None:
                    return
                self._broken = error
                left, self._batches = list(self._batches.values()), {}
                self._changed.notify_all()
            # Outside the lock: a callback sends a response and may take its time.
            for batch in left:
                self._settle(batch, error)
            self._on_broken(error)

    # --- the memory engine's thread ---

    def _fetch_all(self) -> None:
        engine, started = self._device.memory, deque[UnitJob]()
        while True:
            job = self._next_fetch(bool(started))
            if job is not None:
                engine.start(job)
                job.started = job.placed
                while job.placed < job.bytes:
                    self._place_more(job, started)
                    engine.start(job)
                    job.started = job.placed
                started.append(job)
                # Queued for compute before the fetch has ended: a chained device lets its compute stream wait.
                with self._changed:
                    self._to_compute.append(job)
                    self._changed.notify_all()
                # Late binding (layerwise.md, executor): few jobs are queued behind the one that runs, so that a
                # decision is taken from measured times.
                if len(started) <= engine.ahead:
                    continue
            if not started:
                return
            self._fetched(started.popleft())

    def _next_fetch(self, busy: bool) -> UnitJob | None:
        """The next job that has its place; None to finish what was started first, or to end."""
        with self._changed:
            while True:
                # A decision stands once it is in the timeline: it waits for room and nothing overtakes it, because the
                # memory engine works in order (C5).
                job = self._pending or self._decide()
                self._pending = job
                if job is not None and self._opened(job):
                    self._pending = None
                    return job
                if self._broken is not None:
                    raise ExecutorBrokenError("the other engine failed") from self._broken
                if busy or (job is None and self._closing and not self._batches):
                    return None
                self._changed.wait()

    def _opened(self, job: UnitJob) -> bool:
        """Give the unit its place, if it can have as much room now as a fetch begins with."""
        ring, size = self._device.ring, self._next_bytes(job)
        if not ring.opens(job.bytes, size):
            size = self._least_bytes(job)
            if not ring.opens(job.bytes, size):
                return False
        job.offset, behind = ring.open(job.bytes)
        self._hold(job, size, behind)
        return True

    def _hold(self, job: UnitJob, size: int, behind: object = None) -> None:
        waits_for = self._device.ring.hold(size) or behind
        assert waits_for is None or isinstance(waits_for, UnitJob)
        job.behind = waits_for
        job.pauses += job.placed > 0 and waits_for is not None
        job.placed += size

    def _least_bytes(self, job: UnitJob) -> int:
        """The room that its fetch needs to go on."""
        left = job.bytes - job.placed
        whole = self._scheduler.timeline.prefetch is Prefetch.WHOLE and not job.placed
        return left if whole else min(left, self._device.piece_bytes)

    def _next_bytes(self, job: UnitJob) -> int:
        """As many whole pieces as there is room for, behind as little as can be."""
        least, left, piece = self._least_bytes(job), job.bytes - job.placed, self._device.piece_bytes
        room = self._device.ring.room(least)
        return max(least, left if left <= room else room // piece * piece)

    def _place_more(self, job: UnitJob, started: deque[UnitJob]) -> None:
        """Wait until more of a unit has room whose fetch has begun."""
        with self._changed:
            if (size := self._next_bytes(job)) <= self._device.ring.free:
                self._hold(job, size)
                return
        # The compute engine's thread waits for the ends of these before it gives room back.
        while started:
            self._fetched(started.popleft())
        with self._changed:
            job.pauses += 1
            while (size := self._next_bytes(job)) > self._device.ring.free:
                if self._broken is not None:
                    raise ExecutorBrokenError("the other engine failed") from self._broken
                self._changed.wait()
            self._hold(job, size)

    def _decide(self) -> UnitJob | None:
        """The policy's choice, entered into the timeline (the lock is held)."""
        while True:
            now = time.monotonic()
            step = None if self._far_ahead(now) else self._scheduler.decide(steps_of_seconds(now))
            if step is None:
                return None
            decision, placement = step
            batch = self._batches[decision.request.order]
            if batch.error is not None:
                # Its remaining layers are picked like any other and dropped again, until the last one is gone.
                self._scheduler.timeline.drop(placement.sequence)
                batch.given_up = decision.last
                if batch.given_up and not batch.on_its_way:
                    self._release(batch)
                continue
            batch.on_its_way += 1
            spent = time.monotonic() - now
            self.totals.decision_s += spent
            return UnitJob(
                batch=batch,
                position=decision.position,
                bytes=decision.layer.bytes,
                sequence=placement.sequence,
                skips=decision.skips,
                decision_s=spent,
            )

    def _far_ahead(self, now: float) -> bool:
        """Is enough decided for now? The end of a unit's compute is the next occasion."""
        queued = len(self._to_compute)
        if queued <= _QUEUED_WITHOUT_FETCH:
            return False
        candidates = self._scheduler.ready.candidates(steps_of_seconds(now))
        return queued > _MOST_QUEUED or not any(candidate.layer.bytes for candidate in candidates)

    def _fetched(self, job: UnitJob) -> None:
        interval = self._device.memory.finish(job)
        with self._changed:
            self._count_fetch(job, interval)
            job.fetch = interval
            start, end = map(steps_of_seconds, interval)
            self._scheduler.timeline.correct(job.sequence, fetch_start=start, fetch_end=end)
            self._changed.notify_all()

    def _count_fetch(self, job: UnitJob, interval: Interval) -> None:
        totals, batch = self.totals, job.batch
        batch.began = batch.began or interval.start
        totals.memory_busy_s += job.fetch_s
        paused = interval.end - interval.start - job.fetch_s
        totals.memory_idle_s += paused + max(0.0, interval.start - max(self._memory_free, batch.arrival))
        totals.bytes += job.bytes if job.works else 0
        totals.pauses += job.pauses > 0
        self._memory_free = interval.end

    # --- the compute engine's thread ---

    def _compute_all(self) -> None:
        engine = self._device.compute
        while True:
            job = self._next_compute()
            if job is not None:
                engine.start(job)
                self._computing.append(job)
                if self._device.chained:
                    self._lend(job)
                if len(self._computing) <= engine.ahead and self._another():
                    continue
            if not self._computing:
                return
            done = self._computing.popleft()
            self._computed(done, engine.finish(done))

    def _next_compute(self) -> UnitJob | None:
        """The next job whose weights are there (or on their way, where the device waits itself)."""
        with self._changed:
            while True:
                if self._startable():
                    return self._to_compute.popleft()
                if self._broken is not None:
                    raise ExecutorBrokenError("the other engine failed") from self._broken
                if self._computing or (self._closing and not self._batches):
                    return None
                self._changed.wait()

    def _lend(self, job: UnitJob) -> None:
        """Its compute is queued: the device can let a fetch into its place wait for that."""
        with self._changed:
            self._device.ring.lend(job)
            self._changed.notify_all()

    def _another(self) -> bool:
        with self._changed:
            return self._startable()

    def _startable(self) -> bool:
        return bool(self._to_compute) and (self._device.chained or self._to_compute[0].fetch is not None)

    def _computed(self, job: UnitJob, interval: Interval) -> None:
        batch = job.batch
        with self._changed:
            # On a chained device the memory thread may not yet have seen the end of the fetch.
            self._changed.wait_for(lambda: job.fetch is not None or self._broken is not None)
            if self._broken is not None:
                raise ExecutorBrokenError("the other engine failed") from self._broken
            # Here and no earlier: the unit's kernels have ended, so its place may be written again (methods C: bytes
            # are held to the end of the compute).
            self._device.ring.retire()
            start, end = map(steps_of_seconds, interval)
            self._scheduler.timeline.correct(job.sequence, compute_start=start, compute_end=end)
            self._count_compute(job, interval)
            batch.on_its_way -= 1
            gone = batch.given_up and not batch.on_its_way
            self._changed.notify_all()
        # Outside the lock: outputs are copied and a response is sent, while the memory engine goes on.
        if batch.error is None and job.error is not None:
            self._settle(batch, job.error)
        if gone:
            self._release(batch)
        elif job.last and self._device.chained:
            self._answers.put(batch)
        elif job.last:
            self._end(batch)

    def _answer_all(self) -> None:
        while (batch := self._answers.get()) is not None:
            self._end(batch)

    def _end(self, batch: LayerwiseBatch) -> None:
        """All its units have passed."""
        if batch.error is None:
            self._answer(batch)
        self._release(batch)

    def _release(self, batch: LayerwiseBatch) -> None:
        """Nothing of it is on either engine, or will be."""
        self._device.release(batch)
        with self._changed:
            self._batches.pop(batch.order, None)
            self._changed.notify_all()

    def _count_compute(self, job: UnitJob, interval: Interval) -> None:
        assert job.fetch is not None
        totals, batch = self.totals, job.batch
        totals.compute_busy_s += interval.end - interval.start
        totals.compute_idle_s += max(0.0, interval.start - max(self._compute_free, batch.arrival))
        self._compute_free = interval.end
        if not job.works:
            return  # the time of a unit that did nothing, or broke off, is no measurement
        totals.units += 1
        self._on_record(
            UnitRecord(
                model=batch.model,
                order=batch.order,
                position=job.position,
                rows=batch.rows,
                bytes=job.bytes,
                arrival=batch.arrival,
                fetch_start=job.fetch.start,
                fetch_end=job.fetch.end,
                compute_start=interval.start,
                compute_end=interval.end,
                planned=batch.layers[job.position],
                skips=job.skips,
                decision_s=job.decision_s,
                fetch_s=job.fetch_s,
            )
        )

    def _answer(self, batch: LayerwiseBatch) -> None:
        try:
            batch.outputs = self._device.end(batch)
        except Exception as error:
            self._settle(batch, error)
        else:
            self._settle(batch, None)

    def _settle(self, batch: LayerwiseBatch, error: BaseException | None) -> None:
        """Once, by whoever comes first: an engine may fail while the answer is on its way."""
        with self._changed:
            if batch.answered:
                return
            batch.answered = True
        batch.error = error
        batch.state = None
        batch.settled(batch)
