"""The decision loop: one pass of decisions after each event, and the tasks that outlive the call that started them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

T = TypeVar("T")
_TIMER_S: Final = 0.001
"""uvloop's timers count milliseconds: one that is asked for less would fire at once, and again, and again."""


@dataclass(slots=True)
class DecisionLoop:
    """Runs `decide` once after the events of one round of the event loop (method B6: on events, never by polling).
    `decide` returns when it wants to run again without an event, None for never."""

    decide: Callable[[], float | None]
    clock: Callable[[], float]
    closed: bool = False
    _due: bool = False
    _again_at: float | None = None
    _timer: asyncio.TimerHandle | None = None
    _watchers: list[asyncio.Future[None]] = field(default_factory=list)
    _tasks: set[asyncio.Future[Any]] = field(default_factory=set)

    def wake(self) -> None:
        """An event that may change what can be dispatched: decide soon."""
        self.decide_soon()
        if self._watchers:
            self._notify()

    def decide_soon(self) -> None:
        """Decide once more without an event: whoever waits for `next_event` goes on waiting."""
        if not self._due:
            self._due = True
            # call_soon and not at once: requests that arrive in the same round of the event loop share a batch.
            asyncio.get_running_loop().call_soon(self._decide)

    def decide_now(self) -> None:
        """An event whose decision is more urgent than what else this round of the event loop may bring: a device waits
        for its next batch."""
        if self._watchers:
            self._notify()
        self._decide_again_at(self.decide())

    async def next_event(self) -> None:
        """Return after the next event."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        await watcher

    def spawn(self, work: Awaitable[T]) -> asyncio.Future[T]:
        """Run it as a task of its own until it ends or `close`."""
        task = asyncio.ensure_future(work)
        # asyncio itself keeps weak references to tasks only.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End the timer and all tasks. Runs that end later find `closed` set and decide nothing."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _notify(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    def _decide(self) -> None:
        self._due = False
        self._decide_again_at(self.decide())

    def _decide_again_at(self, when: float | None) -> None:
        """Set the timer, unless it is set for this very moment already: most passes change nothing about it."""
        if when == self._again_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._again_at = when
        if when is not None:
            delay = max(_TIMER_S, when - self.clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._timer_fired)

    def _timer_fired(self) -> None:
        self._again_at = self._timer = None
        self.decide_now()
