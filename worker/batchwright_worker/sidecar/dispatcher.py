"""Performs what the scheduler decides, on the runtimes: batches, loads, retries, device losses, observation windows.

Woken by events only (method B6): an arrival, the end of a batch or a load, a device lost or back, the end of a window
while there is traffic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchwright_worker.sidecar.board import Board
from batchwright_worker.sidecar.dispatch import LoadModel, Nothing
from batchwright_worker.sidecar.isolation import Part, PartsLost, run_isolated
from batchwright_worker.sidecar.loader import Loader
from batchwright_worker.sidecar.measures import ModelMeasures, WindowCounts
from batchwright_worker.sidecar.outcome import BatchOutcome
from batchwright_worker.sidecar.queues import Waiting
from batchwright_worker.sidecar.scheduler import Batch, Scheduler
from batchwright_worker.sidecar.served import Served
from batchwright_worker.sidecar.ticket import Ticket
from batchwright_worker.sidecar.values import (
    DeadlineExceeded,
    InferenceError,
    ModelFailed,
    ModelUnavailable,
    Refused,
    Runtime,
    RuntimeLost,
    RuntimeTrouble,
)

MOST_LOSSES = 2
"""A request whose batches have lost so many runtimes fails: it may be what kills them."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Dispatcher:
    """One per engine; owns the tickets (callers that wait) and the tasks (batches and loads in progress)."""

    scheduler: Scheduler
    runtimes: Mapping[str, Runtime]
    loader: Loader
    board: Board
    measures: Mapping[str, ModelMeasures]
    clock: Callable[[], float]
    tickets: dict[int, Ticket] = field(default_factory=dict)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no caller waits."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    _windows: set[str] = field(default_factory=set)
    _pump_due: bool = False
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    # --- callers ---

    def admit(self, key: int, ticket: Ticket) -> None:
        """A request is in the queue under `key`."""
        ticket.keys.add(key)
        self.tickets[key] = ticket
        self.idle.clear()
        self.wake()

    def forget(self, ticket: Ticket) -> None:
        """Its caller has its answer or has gone: what has not started is skipped."""
        for key in ticket.keys:
            self.tickets.pop(key, None)
            self.scheduler.cancel(key)
        ticket.keys.clear()
        if not self.tickets:
            self.idle.set()

    def fail(self, ticket: Ticket, error: InferenceError, refused: str = "") -> None:
        """Answer with an error, unless it is answered already; `refused`: the reason to count it under."""
        if not ticket.fail(error):
            return
        measures = self.measures[ticket.request.model]
        measures.fail.add(self.clock() - ticket.request.arrival)
        if refused:
            measures.refused[refused] += 1
        else:
            measures.failed_rows += ticket.request.rows
        self.forget(ticket)

    # --- deciding ---

    def wake(self) -> None:
        """Something happened: decide when this round of the event loop has brought all that it brings."""
        if not self._pump_due:
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)
        self._moved.set()
        self._moved = asyncio.Event()

    def _pump(self) -> None:
        self._pump_due = False
        while True:
            step = self.scheduler.next(self.clock())
            for key in step.late:
                if (ticket := self.tickets.get(key)) is not None:
                    self.fail(ticket, _late(ticket, self.clock()), "LateAtDispatch")
            match step.action:
                case Batch() as batch:
                    self.measures[batch.run.model].dispatched[batch.run.reason] += 1
                    self._spawn(self._run(batch))
                case LoadModel() as load:
                    self.measures[load.model].dispatched[load.reason] += 1
                    self._spawn(self.load(load))
                case Nothing():
                    self._wake_at(step.wake_at)
                    return

    def _wake_at(self, when: float | None) -> None:
        if (timer := self._timers.pop("queue delay", None)) is not None:
            timer.cancel()
        if when is not None:
            delay = max(0.0, when - self.clock())
            self._timers["queue delay"] = asyncio.get_running_loop().call_later(delay, self.wake)

    # --- batches ---

    async def _run(self, batch: Batch) -> None:
        run, now = batch.run, self.clock()
        books, served = self.scheduler.devices[run.device], self.scheduler.models[run.model]
        parts = [
            Part(self.tickets[part.key], part.start, part.rows) for part in batch.slices if part.key in self.tickets
        ]
        for part in parts:
            part.ticket.started(now, run.rows)
        outcome = BatchOutcome(
            batch=batch,
            served=served,
            books=books,
            measures=self.measures[run.model],
            clock=self.clock,
            wall=self.board.wall,
            fail=self.fail,
            epoch=books.epoch,
        )
        try:
            await self.loader.unload(run.device, run.unload)
            await run_isolated(self.runtimes[run.device], run.model, parts, outcome)
        except PartsLost as lost:
            self._retry(run.model, lost.parts, str(lost))
        except RuntimeTrouble as trouble:
            self._retry(run.model, parts, str(trouble))
        except Exception as bug:
            _log.exception("batch of %s on %s", run.model, run.device)
            for part in parts:
                self.fail(part.ticket, ModelFailed(f"model {run.model} failed: {type(bug).__name__}: {bug}"))
        finally:
            if not outcome.device_lost():
                self._ended(batch, outcome)
            self.wake()

    def _ended(self, batch: Batch, outcome: BatchOutcome) -> None:
        if outcome.whole is None:
            self.scheduler.batch_failed(batch, self.clock())
        else:
            whole = outcome.whole
            self.scheduler.batch_ended(batch, whole.device_seconds, whole.batch_bytes, self.clock())

    def _retry(self, model: str, parts: list[Part], why: str) -> None:
        """The runtime died under these rows: once more on the next one, in their old place in the queue."""
        self.measures[model].retried += bool(parts)
        counted: set[int] = set()
        for part in parts:
            ticket = part.ticket
            if id(ticket) not in counted:
                counted.add(id(ticket))
                ticket.losses += 1
            if not ticket.waits:
                continue
            if ticket.losses >= MOST_LOSSES:
                self.fail(ticket, ModelFailed(f"the runtime of model {model} died twice under this request: {why}"))
                continue
            entry = Waiting(
                key=0,
                rows=part.start + part.rows,
                start=part.start,
                arrival=ticket.request.arrival,
                bucket=ticket.bucket,
                priority=ticket.request.priority,
                drop_after=ticket.request.deadline,
            )
            key = self.scheduler.requeue(entry, model)
            ticket.keys.add(key)
            self.tickets[key] = ticket

    # --- loads ---

    async def load(self, load: LoadModel) -> None:
        """Carry out a load that is in the books."""
        try:
            await self.loader.load(load)
        finally:
            self.wake()

    async def place(self, model: str, device: str | None = None, *, evict: bool = True) -> str:
        """Load a model (on this device) as B5's options 3 and 4 put it, waiting while devices are busy or not up yet.
        Returns why it cannot be, empty once it is there. With `evict` False only into free memory."""
        while True:
            if any(device in (None, books.name) for books in self.scheduler.holders(model)):
                return ""
            plan = self.scheduler.plan_load(model, self.clock(), device)
            if isinstance(plan, LoadModel):
                if plan.unload and not evict:
                    return "it needs memory that other models hold"
                self.scheduler.begin_load(plan, self.clock())
                await self.load(plan)
                if self.scheduler.models[model].blocked:
                    return self.scheduler.models[model].blocked
            elif self._is_final(device):
                return plan
            else:
                await self.something_moves()

    def _is_final(self, device: str | None) -> bool:
        """Would waiting not help: is every device (that is asked for) up and idle?"""
        asked = [books for books in self.scheduler.devices.values() if device in (None, books.name)]
        return all(books.idle and books.loadable for books in asked)

    async def something_moves(self) -> None:
        """Until the next event that may change what can be dispatched."""
        await self._moved.wait()

    def loaded(self, model: str, *, first: bool) -> None:
        """A load is done and measured (callback of the loader)."""
        served = self.scheduler.models[model]
        if first:
            served.warmed_up()
            message = f"the warm-up's batches predict that {served.tuning.size} rows are best"
            self.board.resized(model, served.tuning.size, "Initial", message)
        self.board.become(model, "Ready")

    def load_failed(self, model: str, why: str, retry_after_s: float) -> None:
        """A load has failed (callback of the loader): answer who waits, try again later."""
        until = self.clock() + retry_after_s
        for key in self.scheduler.block(model, why, until):
            if (ticket := self.tickets.get(key)) is not None:
                error = ModelUnavailable(f"model {model} cannot be loaded: {why}", retry_after_s=retry_after_s)
                self.fail(ticket, error, "Unavailable")
        self.board.become(model, "Failed", why)
        loop = asyncio.get_running_loop()
        self._timers[f"load {model}"] = loop.call_later(retry_after_s, self._load_again, model, until)

    def _load_again(self, model: str, until: float) -> None:
        served = self.scheduler.models[model]
        if served.blocked_until == until and not self.scheduler.holders(model):
            self.scheduler.let_in(model)
            self._spawn(self._place_again(model))

    async def _place_again(self, model: str) -> None:
        if why := await self.place(model):
            self.cannot_place(model, why)

    def cannot_place(self, model: str, why: str) -> None:
        """No device can take it now: the same as a load that failed (unless one just did and has said so)."""
        if not self.scheduler.models[model].blocked:
            self.load_failed(model, why, self.loader.next_backoff_s(model))

    async def replicate(self, model: str) -> None:
        """Load it on every further device that has memory free for it (at start)."""
        for books in self.scheduler.devices.values():
            if model not in books.held and not books.down:
                await self.place(model, books.name, evict=False)

    async def evict(self, device: str, model: str) -> None:
        """Out of this device's memory, as soon as it is idle; it counts as busy meanwhile."""
        books = self.scheduler.devices[device]
        while model in (books.running, books.loading) or (model in books.held and books.work != "Idle"):
            await self.something_moves()
        if model not in books.held:
            return
        epoch = books.epoch
        books.unload(model)
        books.loading = model
        try:
            await self.loader.unload(device, (model,))
            await self.loader.measure(device)
        except RuntimeLost:
            _log.info("runtime %s was lost while %s was unloaded", device, model)
        finally:
            if books.epoch == epoch:
                books.loading = ""
            self.wake()

    def watch(self, device: str) -> None:
        """Follow the runtime's losses and returns."""
        self.runtimes[device].watch(lambda why: self._lost(device, why), lambda: self._back(device))

    def _lost(self, device: str, why: str) -> None:
        _log.warning("runtime %s is lost: %s", device, why)
        books = self.scheduler.devices[device]
        if not books.down:
            self.scheduler.former[device] = books.lose()
            self.board.bump()
        self.wake()

    def _back(self, device: str) -> None:
        self._spawn(self.revive(device))

    async def revive(self, device: str) -> None:
        """A new, empty runtime is there: measure it, load what the old one held."""
        try:
            await self.loader.measure(device)
        except RuntimeTrouble as trouble:
            _log.warning("runtime %s does not answer yet: %s", device, trouble)
            return
        self.scheduler.devices[device].down = False
        self.board.bump()
        self.wake()
        for model in self.scheduler.former.pop(device, []):
            if not self.scheduler.models[model].blocked:
                await self.place(model, device, evict=False)

    # --- windows ---

    def observe(self, served: Served) -> None:
        """There is traffic: if no window is open, one begins."""
        if served.name not in self._windows:
            self._windows.add(served.name)
            offered = served.window.offered
            served.window = WindowCounts(began=self.clock(), offered=offered)
            self._schedule_window(served)

    def _schedule_window(self, served: Served) -> None:
        loop = asyncio.get_running_loop()
        self._timers[f"window {served.name}"] = loop.call_later(served.plan.window_s, self._close_window, served)

    def _close_window(self, served: Served) -> None:
        now = self.clock()
        verdict, counts = served.close_window(now)
        self.board.closed(served.name, verdict, counts, now)
        if counts.quiet and not served.queue.rows:
            self._windows.discard(served.name)
        else:
            self._schedule_window(served)
        if verdict.changed:
            self.wake()

    # --- tasks ---

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop timers and tasks."""
        for timer in self._timers.values():
            timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _late(ticket: Ticket, now: float) -> InferenceError:
    request = ticket.request
    waited = (now - request.arrival) * 1e3
    if request.deadline is not None:
        return DeadlineExceeded(f"the deadline cannot be met any more after waiting {waited:.0f} ms")
    return Refused(
        f"after waiting {waited:.0f} ms the latency target cannot be met any more", retry_after_s=waited / 1e3
    )
