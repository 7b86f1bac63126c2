"""The sidecar's event loop as another thread sees it: asks it, and knows since when it has not turned.

The loop is never polled: each question of a probe or of the operator is one, and only while one is open is the loop's
silence measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class LoopStuckError(Exception):
    """The event loop has not turned for `seconds`: something in it computes, or waits, and lets nothing else run."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the sidecar's event loop has not turned for {seconds:.0f} s")
        self.seconds = seconds


class MainLoop:
    """Made on the loop that it stands for; everything else is called on the event loop of another thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._silent_since: float | None = None

    @property
    def silent_s(self) -> float:
        """Since when the loop owes a turn; 0 if it has turned since it was asked for one."""
        since = self._silent_since
        return 0.0 if since is None else self._clock() - since

    async def turned(self, within_s: float) -> bool:
        """Does the loop turn within this time?"""
        here, turned = asyncio.get_running_loop(), asyncio.Event()
        if self._silent_since is None:
            self._silent_since = self._clock()

        def turn() -> None:
            self._silent_since = None
            here.call_soon_threadsafe(turned.set)

        self._loop.call_soon_threadsafe(turn)
        try:
            async with asyncio.timeout(within_s):
                await turned.wait()
        except TimeoutError:
            return False
        return True

    async def call(self, make: Callable[[], Awaitable[T]], within_s: float) -> T:
        """The result of what `make` gives, run on the loop; cancelled there if it is cancelled here. Raises
        LoopStuckError if the loop does not even turn within this time."""
        if not await self.turned(within_s):
            raise LoopStuckError(self.silent_s)

        async def run() -> T:
            return await make()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._loop))
