"""The model lifecycle: models onto and off devices beyond what waiting rows require: at start, on request, after
failures and losses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from batchwright_worker.engine.loader import LoadDone, Loader, LoadGivenUp
from batchwright_worker.engine.model_view import ModelView
from batchwright_worker.engine.parts import EngineParts
from batchwright_worker.inference.errors import ModelUnavailable
from batchwright_worker.inference.runtime import RuntimeLost, RuntimeTrouble
from batchwright_worker.scheduler.devices import Device
from batchwright_worker.scheduler.dispatch import LoadModel

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class ModelLifecycle:
    """One per engine; owns the timers of loads that are tried again."""

    engine: EngineParts
    loader: Loader
    _timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    _overdue: dict[str, set[str]] = field(default_factory=dict)
    """By device, the models that are unready because they hold it up."""

    async def load(self, load: LoadModel) -> None:
        """Carry out a load that the scheduler has begun, and what follows from its result."""
        try:
            match await self.loader.load(load):
                case LoadDone(first=first, message=message):
                    self._loaded(load.model, first=first, message=message)
                case LoadGivenUp(why=why, retry_after_s=retry_after_s):
                    self._give_up(load.model, why, retry_after_s)
                case None:
                    pass
        finally:
            self.engine.decisions.wake()

    async def place(self, model: str, device: str | None = None, *, evict: bool = True) -> str:
        """Load a model (on this device) as B5's options 3 and 4 put it, waiting while devices are busy or not up yet.
        Returns why it cannot be, empty once it is there. With `evict` False only into free memory."""
        engine, drained = self.engine, False
        while True:
            if any(device in (None, holder.name) for holder in engine.scheduler.holders(model)):
                return ""
            plan = engine.scheduler.plan_load(model, engine.clock(), device)
            if isinstance(plan, LoadModel):
                if plan.unload and not evict:
                    return "it needs memory that other models hold"
                engine.scheduler.begin_load(plan, engine.clock())
                await self.load(plan)
                if engine.scheduler.models[model].blocked:
                    return engine.scheduler.models[model].blocked
            else:
                wanted = [one for one in engine.scheduler.devices.values() if device in (None, one.name)]
                if all(one.settled for one in wanted):
                    return plan
                # Once each of them was quiet or down, what it waits for is one that is down: it claims nothing any
                # more, or the others would stand idle until that one is back.
                drained = drained or all(one.quiet or one.down for one in wanted)
                await self._changed([] if drained else wanted, to_load=True)

    async def _changed(self, wanted: Sequence[Device], *, to_load: bool = False) -> None:
        """Return after the next event. The wanted devices begin nothing meanwhile that a load (or an unload) must wait
        for: under traffic they would never be free."""
        # Claims end with each event: whoever still waits claims again (see `place`).
        for device in wanted:
            self.engine.scheduler.reserve(device.name, to_load)
        if to_load:
            # What need not wait for the load, or comes before it, may begin.
            self.engine.decisions.decide_soon()
        try:
            await self.engine.decisions.next_event()
        finally:
            for device in wanted:
                self.engine.scheduler.release(device.name, to_load)
            # Not `wake`: that is an event, and those who wait for one would wake each other forever.
            self.engine.decisions.decide_soon()

    def _loaded(self, model: str, *, first: bool, message: str) -> None:
        signature = self.engine.signatures.get(model)
        if signature is not None:
            self.engine.publisher.views[model].mode = "Whole" if signature.whole else "Rows"
        if first and signature is not None and signature.whole:
            self.engine.publisher.resized(model, 1, "Initial", "each request is a batch of its own")
        elif first:
            size = self.engine.scheduler.warmed_up(model)
            why = f"the warm-up's batches predict that {size} rows are best"
            self.engine.publisher.resized(model, size, "Initial", why)
        if not self.engine.scheduler.models[model].blocked:
            self.engine.publisher.set_state(model, "Ready", message)

    def _give_up(self, model: str, why: str, retry_after_s: float) -> None:
        """Answer who waits for the model, try again later."""
        until = self.engine.clock() + retry_after_s
        error = ModelUnavailable(f"model {model} cannot be loaded: {why}", retry_after_s=retry_after_s)
        self.engine.requests.reject(self.engine.scheduler.block(model, why, until), error, "Unavailable")
        self.engine.publisher.set_state(model, "Failed", why)
        loop = asyncio.get_running_loop()
        self._timers[model] = loop.call_later(retry_after_s, self._load_again, model, until)

    def _load_again(self, model: str, until: float) -> None:
        served = self.engine.scheduler.models[model]
        # Unless it was unloaded by request, loaded, or given up once more since the timer was set.
        if served.blocked_until == until and not self.engine.scheduler.holders(model):
            self.engine.scheduler.unblock(model)
            self.engine.decisions.spawn(self._place_again(model))

    async def _place_again(self, model: str) -> None:
        if why := await self.place(model):
            self.cannot_place(model, why)

    def cannot_place(self, model: str, why: str) -> None:
        """No device can take it now: the same as a load that was given up (unless one just was, and has blocked it)."""
        if not self.engine.scheduler.models[model].blocked:
            self._give_up(model, why, self.loader.next_backoff_s(model))

    async def replicate(self, model: str) -> None:
        """Load it on every further device that has memory free for it (at start)."""
        for device in self.engine.scheduler.devices.values():
            if not device.holds(model) and not device.down:
                await self.place(model, device.name, evict=False)

    async def evict(self, device_name: str, model: str) -> None:
        """Unload it from this device as soon as that is idle; it counts as busy meanwhile."""
        scheduler = self.engine.scheduler
        device = scheduler.devices[device_name]
        while model in (device.timeline.running, device.timeline.loading) or (device.holds(model) and not device.quiet):
            await self._changed([device])
        if not device.holds(model):
            return
        epoch = device.epoch
        scheduler.begin_eviction(device_name, model)
        try:
            await self.loader.unload(device_name, (model,))
            await self.loader.measure(device_name)
        except RuntimeLost as lost:
            _LOG.info("runtime %s was lost while %s was unloaded", device_name, model)
            self.engine.counters[model].hung += lost.overdue
        finally:
            if device.epoch == epoch:
                scheduler.eviction_ended(device_name)
            self.engine.decisions.wake()

    def watch(self, device: str) -> None:
        """Follow the runtime's losses and returns."""
        self.engine.runtimes[device].watch(
            partial(self._lost, device), partial(self._back, device), partial(self._takes_long, device)
        )

    def _takes_long(self, device: str, model: str, why: str) -> None:
        """Half of a limit has passed on a device, which answers nobody meanwhile; with no `why`: it has ended after
        all."""
        view = self.engine.publisher.views[model]
        if why:
            self.engine.counters[model].overdue += 1
        if why and not (view.state == "Loading" and self.engine.runtimes[device].overlaps_loads):
            self.engine.publisher.stuck.add(device)
        else:
            self.engine.publisher.stuck.discard(device)
        if view.state == "Loading":
            self.engine.publisher.set_state(model, "Loading", why)
        elif not why:
            self._overdue.get(device, set()).discard(model)
            self._no_longer_overdue(model, view)
        elif view.state == "Ready" and not any(
            holder.name != device and not holder.down for holder in self.engine.scheduler.holders(model)
        ):
            self._overdue.setdefault(device, set()).add(model)
            self.engine.publisher.set_state(model, "Failed", why)

    def _no_longer_overdue(self, model: str, view: ModelView) -> None:
        if view.state == "Failed" and not self.engine.scheduler.models[model].blocked:
            self.engine.publisher.set_state(model, "Ready")

    def rest(self, model: str, why: str, rest_s: float) -> None:
        """Take it out of service for a while: it has cost the other models of its device too much (`loss_budget`)."""
        until = self.engine.clock() + rest_s
        message = f"quarantined for {rest_s:.0f} s, because it has cost the device's other models its runtime: {why}"
        _LOG.error("model %s is %s", model, message)
        error = ModelUnavailable(f"model {model} is {message}", retry_after_s=rest_s)
        self.engine.requests.reject(self.engine.scheduler.block(model, message, until), error, "Unavailable")
        self.engine.publisher.set_state(model, "Failed", message, resting=True)
        self._timers[model] = asyncio.get_running_loop().call_later(rest_s, self._rested, model, until)

    def _rested(self, model: str, until: float) -> None:
        # Unless it was unloaded by request, or loaded, since the timer was set.
        if self.engine.scheduler.models[model].blocked_until == until:
            self.engine.scheduler.unblock(model)
            self.engine.publisher.set_state(model, "Ready")
            self.engine.decisions.wake()

    def _lost(self, device: str, why: str) -> None:
        _LOG.warning("runtime %s is lost: %s", device, why)
        if self.engine.scheduler.runtime_lost(device):
            publisher = self.engine.publisher
            publisher.lost.setdefault(device, self.engine.clock())
            publisher.publish()
            if publisher.lost_grace_s:
                asyncio.get_running_loop().call_later(publisher.lost_grace_s, publisher.publish)
        self.engine.decisions.wake()

    def _back(self, device: str) -> None:
        self.engine.decisions.spawn(self.restore(device))

    async def restore(self, device: str) -> None:
        """A new, empty runtime is there: measure it, load what the lost one had in memory. Between two loads it serves
        what it can: also the rows that it was lost under, which run beside no load."""
        try:
            await self.loader.measure(device)
        except RuntimeTrouble as trouble:
            _LOG.warning("runtime %s does not answer yet: %s", device, trouble)
            return
        former = self.engine.scheduler.runtime_back(device)
        self.engine.publisher.stuck.discard(device)
        self.engine.publisher.publish()
        self.engine.decisions.wake()
        models = self.engine.scheduler.models
        while former:
            self.engine.decisions.decide_now()
            # Those that callers wait for first: the others are loaded meanwhile.
            model = max(former, key=lambda model: models[model].queue.rows)
            former.remove(model)
            if not models[model].blocked:
                await self.place(model, device, evict=False)
        if self.engine.publisher.lost.pop(device, None) is not None:
            self.engine.publisher.publish()
        for model in self._overdue.pop(device, set()):
            self._no_longer_overdue(model, self.engine.publisher.views[model])

    def close(self) -> None:
        """No more loads are tried again."""
        for timer in self._timers.values():
            timer.cancel()
