"""Models in and out of devices beyond what waiting rows ask for: at start, on request, after failures and losses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from batchwright_worker.engine.decision_loop import DecisionLoop
from batchwright_worker.engine.loader import Loader
from batchwright_worker.engine.state_publisher import StatePublisher
from batchwright_worker.inference.errors import InferenceError, ModelUnavailable
from batchwright_worker.inference.runtime import Runtime, RuntimeLost, RuntimeTrouble
from batchwright_worker.scheduler.devices import Device
from batchwright_worker.scheduler.dispatch import LoadModel
from batchwright_worker.scheduler.scheduler import Scheduler

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class ModelLifecycle:
    """One per engine. `turn_away(keys, error)` answers the callers of queue entries that will not be served."""

    scheduler: Scheduler
    runtimes: Mapping[str, Runtime]
    loader: Loader
    publisher: StatePublisher
    decisions: DecisionLoop
    clock: Callable[[], float]
    reject: Callable[[list[int], InferenceError], None]
    _timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)

    async def load(self, load: LoadModel) -> None:
        """Carry out a load that is in the books."""
        try:
            await self.loader.load(load)
        finally:
            self.decisions.wake()

    async def place(self, model: str, device: str | None = None, *, evict: bool = True) -> str:
        """Load a model (on this device) as B5's options 3 and 4 put it, waiting while devices are busy or not up yet.
        Returns why it cannot be, empty once it is there. With `evict` False only into free memory."""
        drained = False
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
            else:
                asked = [books for books in self.scheduler.devices.values() if device in (None, books.name)]
                if all(books.quiet for books in asked):
                    return plan
                drained = drained or all(books.quiet or books.down for books in asked)
                await self._changed([] if drained else asked)

    async def _changed(self, wanted: Sequence[Device]) -> None:
        """Until the next event. The wanted devices begin nothing meanwhile: under traffic they would never be free."""
        for books in wanted:
            self.scheduler.claim(books.name)
        try:
            await self.decisions.next()
        finally:
            for books in wanted:
                self.scheduler.release(books.name)
            self.decisions.look()

    def loaded(self, model: str, *, first: bool) -> None:
        """A load is done and measured (callback of the loader)."""
        if first:
            size = self.scheduler.warmed_up(model)
            message = f"the warm-up's batches predict that {size} rows are best"
            self.publisher.resized(model, size, "Initial", message)
        self.publisher.set_state(model, "Ready")

    def load_failed(self, model: str, why: str, retry_after_s: float) -> None:
        """A load has failed (callback of the loader): answer who waits, try again later."""
        until = self.clock() + retry_after_s
        error = ModelUnavailable(f"model {model} cannot be loaded: {why}", retry_after_s=retry_after_s)
        self.reject(self.scheduler.block(model, why, until), error)
        self.publisher.set_state(model, "Failed", why)
        loop = asyncio.get_running_loop()
        self._timers[model] = loop.call_later(retry_after_s, self._load_again, model, until)

    def _load_again(self, model: str, until: float) -> None:
        served = self.scheduler.models[model]
        if served.blocked_until == until and not self.scheduler.holders(model):
            self.scheduler.let_in(model)
            self.decisions.spawn(self._place_again(model))

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
            if not books.holds(model) and not books.down:
                await self.place(model, books.name, evict=False)

    async def evict(self, device: str, model: str) -> None:
        """Out of this device's memory, as soon as it is idle; it counts as busy meanwhile."""
        books = self.scheduler.devices[device]
        while model in (books.timeline.running, books.timeline.loading) or (books.holds(model) and not books.quiet):
            await self._changed([books])
        if not books.holds(model):
            return
        epoch = books.epoch
        self.scheduler.begin_eviction(device, model)
        try:
            await self.loader.unload(device, (model,))
            await self.loader.measure(device)
        except RuntimeLost:
            _log.info("runtime %s was lost while %s was unloaded", device, model)
        finally:
            if books.epoch == epoch:
                self.scheduler.eviction_ended(device)
            self.decisions.wake()

    def watch(self, device: str) -> None:
        """Follow the runtime's losses and returns."""
        self.runtimes[device].watch(lambda why: self._lost(device, why), lambda: self._back(device))

    def _lost(self, device: str, why: str) -> None:
        _log.warning("runtime %s is lost: %s", device, why)
        if self.scheduler.runtime_lost(device):
            self.publisher.publish()
        self.decisions.wake()

    def _back(self, device: str) -> None:
        self.decisions.spawn(self.revive(device))

    async def revive(self, device: str) -> None:
        """A new, empty runtime is there: measure it, load what the old one held."""
        try:
            await self.loader.measure(device)
        except RuntimeTrouble as trouble:
            _log.warning("runtime %s does not answer yet: %s", device, trouble)
            return
        former = self.scheduler.runtime_back(device)
        self.publisher.publish()
        self.decisions.wake()
        for model in former:
            if not self.scheduler.models[model].blocked:
                await self.place(model, device, evict=False)

    def close(self) -> None:
        """No more loads are tried again."""
        for timer in self._timers.values():
            timer.cancel()
