"""The engine's heartbeat: one pass of decisions after each event, tasks that outlive their starters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


def _nothing() -> None:
    """Until somebody decides."""


@dataclass(slots=True)
class DecisionLoop:
    """`wake` whenever something happened; `decide` runs once when this round of the event loop has brought all that it
    brings (method B6: never by polling)."""

    decide: Callable[[], None] = _nothing
    _due: bool = False
    closed: bool = False
    _watchers: list[asyncio.Future[None]] = field(default_factory=list)
    _tasks: set[asyncio.Future[Any]] = field(default_factory=set)

    def wake(self) -> None:
        """Something happened that may change what can be dispatched."""
        self.look()
        if self._watchers:
            self._wake()

    def look(self) -> None:
        """Decide once more, though nothing has happened that those who wait for `next` would want to know."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._decide)

    def now(self) -> None:
        """The same, where the next decision is more urgent than what else this round of the event loop may bring."""
        if self._watchers:
            self._wake()
        self.decide()

    async def next(self) -> None:
        """Until the next beat."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        await watcher

    def spawn(self, work: Awaitable[T]) -> asyncio.Future[T]:
        """Run it as a task of its own until it ends or `close`."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End all tasks."""
        self.closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wake(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    def _decide(self) -> None:
        self._due = False
        self.decide()
