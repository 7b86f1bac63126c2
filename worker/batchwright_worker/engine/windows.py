"""Observation windows: they open with traffic, follow each other while it lasts, and each ends with a decision on the
batch size."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from batchwright_worker.engine.parts import EngineParts
from batchwright_worker.scheduler.served_model import ServedModel


@dataclass(slots=True)
class Windows:
    """One per engine; a timer for each model that has traffic."""

    engine: EngineParts
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    """By model; none without traffic."""

    def observe(self, served: ServedModel) -> None:
        """There is traffic: if no window is open, one begins. Without traffic no timer runs."""
        if served.name not in self.timers:
            self.engine.scheduler.open_window(served.name, self.engine.clock())
            self._schedule(served, served.config.window_s)

    def resized(self, served: ServedModel) -> None:
        """Its windows have another length: the one that is open ends as if it had had it from the start."""
        timer = self.timers.get(served.name)
        if timer is not None:
            timer.cancel()
            self._schedule(served, max(0.0, served.window.began + served.config.window_s - self.engine.clock()))

    def close(self) -> None:
        """No more windows."""
        for timer in self.timers.values():
            timer.cancel()

    def _schedule(self, served: ServedModel, after_s: float) -> None:
        self.timers[served.name] = asyncio.get_running_loop().call_later(after_s, self._end, served)

    def _end(self, served: ServedModel) -> None:
        now = self.engine.clock()
        decision, counts = self.engine.scheduler.close_window(served.name, now)
        self.engine.publisher.window_closed(served.name, decision, counts)
        if counts.quiet and not decision.window.running:
            del self.timers[served.name]
        else:
            self._schedule(served, served.config.window_s)
        if decision.changed:
            self.engine.decisions.wake()
