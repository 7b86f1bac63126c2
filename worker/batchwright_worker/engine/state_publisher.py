"""The state publisher: the sidecar's state, its revision, and the wait for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from batchwright_worker.api.messages import DeviceState, ModelState, SidecarState
from batchwright_worker.engine.counters import ModelCounters
from batchwright_worker.engine.model_view import ModelView
from batchwright_worker.engine.readiness import Readiness
from batchwright_worker.engine.tuning_state import bounds_now, tuning_state
from batchwright_worker.scheduler.batch_size.tuning import TuningDecision
from batchwright_worker.scheduler.devices import Device
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ServedModel
from batchwright_worker.scheduler.window_counts import WindowCounts

MOST_SHOWN = 3
"""Models that a message names; their number has no bound."""
MOST_CHARACTERS = 300
BUSY_WINDOW_S = 1.0
"""Busy ratios are means over at least this long."""


@dataclass(slots=True, kw_only=True)
class StatePublisher:
    """One per engine. Whether the replica is ready, `readiness` decides."""

    scheduler: Scheduler
    counters: Mapping[str, ModelCounters]
    clock: Callable[[], float]
    wall: Callable[[], float]
    readiness: Readiness = field(default_factory=Readiness)
    stuck: set[str] = field(default_factory=set)
    """Devices that answer nobody, because what they do takes too long."""
    lost: dict[str, float] = field(default_factory=dict)
    """Devices whose process was lost, since when (clock), until their models are loaded again."""
    lost_grace_s: float = 0.0
    """Such a device counts as up for so long, which its successor needs to answer; then as down until it does."""
    views: dict[str, ModelView] = field(default_factory=dict)
    revision: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _busy: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """Per device: clock and total busy seconds when the ratio was last taken, and the ratio."""

    def add(self, model: str, batch_size: int) -> None:
        """A model appears, Loading."""
        self.views[model] = ModelView(name=model, batch_size=batch_size)

    def publish(self) -> None:
        """Begin a new revision: something worth a status write has changed."""
        self.revision += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def set_state(self, model: str, state: str, message: str = "", *, resting: bool = False) -> None:
        """A model enters a state; a new revision if it was in another."""
        self.readiness.see(model, state)
        if self.views[model].set_state(state, message, resting=resting):
            self.publish()

    def window_closed(self, model: str, decision: TuningDecision, counts: WindowCounts) -> None:
        """A model's window has ended."""
        self.counters[model].decided[decision.rule, decision.reason] += 1
        bounds = bounds_now(self.scheduler.models[model], self.scheduler.devices.values(), self.clock())
        if self.views[model].window_closed(decision, counts, bounds, self.wall()):
            self.publish()

    def resized(self, model: str, to_size: int, reason: str, message: str) -> None:
        """A model's batch size has changed apart from a window."""
        if self.views[model].batch_size != to_size:
            self.views[model].resized(to_size, reason, message, self.wall())
            self.publish()

    async def wait(self, after: int, timeout_s: float) -> None:
        """Return when the revision is another one than `after`, or after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                # A revision above ours was read from this pod before it restarted: what is asked for is here already.
                while self.revision == after:
                    await self._changed.wait()
        except TimeoutError:
            pass

    @property
    def any_device_up(self) -> bool:
        return any(map(self._is_up, self.scheduler.devices.values()))

    def _is_up(self, device: Device) -> bool:
        lost_at = self.lost.get(device.name)
        if lost_at is None or not self.lost_grace_s:
            return not device.down
        return self.clock() - lost_at < self.lost_grace_s

    @property
    def ready(self) -> bool:
        # One that rests is out of service for a while as if by request.
        states = {name: "Unloaded" if view.resting else view.state for name, view in self.views.items()}
        devices = self.scheduler.devices.values()
        answering = any(self._is_up(device) and device.name not in self.stuck for device in devices)
        return self.readiness.is_ready(states, device_up=answering)

    def what_is_missing(self) -> str:
        """Why some model, or every one, cannot be served; empty if all can. The models' own messages say it in full."""
        if not self.any_device_up:
            return "no runtime is up" if self.scheduler.devices else "no runtime is configured"
        failed = [view for view in self.views.values() if view.state == "Failed"]
        loading = [view for view in self.views.values() if view.state == "Loading"]
        waiting = [*failed, *loading]
        shown = [f"{view.name}: {shortened(view.message) or view.state}" for view in waiting[:MOST_SHOWN]]
        if len(waiting) > MOST_SHOWN:
            shown.append(f"of {len(self.views)} models {len(failed)} have failed and {len(loading)} are loading")
        return "; ".join(shown)

    def snapshot(self, message: str, *, ready: bool) -> SidecarState:
        """The wire message, as of now."""
        return SidecarState(
            revision=self.revision,
            time=self.wall(),
            ready=ready,
            message=message or self.what_is_missing(),
            models=[self._model(view, self.scheduler.models[name]) for name, view in self.views.items()],
            devices=[self._device(device) for device in self.scheduler.devices.values()],
        )

    def _model(self, view: ModelView, served: ServedModel) -> ModelState:
        devices = self.scheduler.devices.values()
        tuning = tuning_state(served, view.decision, view.usually, devices, self.clock())
        return view.as_message(self.counters[view.name], served, tuning)

    def _device(self, device: Device) -> DeviceState:
        return DeviceState(
            kind=device.kind,
            device=device.name,
            busy_ratio=round(self.busy_ratio(device), 4),
            memory_used_bytes=device.memory.used_bytes,
            memory_bytes=device.memory.total_bytes,
        )

    def busy_ratio(self, device: Device) -> float:
        """Share of the time since the last reading (at least BUSY_WINDOW_S ago) that the device was busy."""
        now = self.clock()
        total = device.timeline.busy_at(now)
        since, before, ratio = self._busy.get(device.name, (now, total, 0.0))
        if now - since >= BUSY_WINDOW_S:
            ratio = min(1.0, max(0.0, (total - before) / (now - since)))
            since, before = now, total
        self._busy[device.name] = (since, before, ratio)
        return ratio


def shortened(message: str) -> str:
    """At most so much of a message that a text about several models stays readable."""
    return message if len(message) <= MOST_CHARACTERS else f"{message[:MOST_CHARACTERS]}.."
