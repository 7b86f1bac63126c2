"""The engine's heartbeat: one pass of decisions after each event, tasks that outlive their starters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any


def _nothing() -> None:
    """Until somebody decides."""


@dataclass(slots=True)
class Pulse:
    """`beat` whenever something happened; `decide` runs once when this round of the event loop has brought all that it
    brings (method B6: never by polling)."""

    decide: Callable[[], None] = _nothing
    _due: bool = False
    _moved: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def beat(self) -> None:
        """Something happened that may change what can be dispatched."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._decide)
        self._moved.set()
        self._moved = asyncio.Event()

    async def next(self) -> None:
        """Until the next beat."""
        await self._moved.wait()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it as a task of its own until it ends or `close`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all tasks."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _decide(self) -> None:
        self._due = False
        self.decide()
