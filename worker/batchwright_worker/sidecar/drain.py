"""The drain of a replica: unready at once, serving for a while longer, then finishing the requests it has accepted.

Endpoints are taken out of load balancers some seconds after a pod becomes unready; until then requests still come.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable


class Drain:
    """One drain per process: it runs at most once, however many callers request it."""

    def __init__(
        self, make_unready: Callable[[], None], finish: Callable[[], Awaitable[None]], linger_s: float
    ) -> None:
        self._make_unready = make_unready
        self._finish = finish
        self._linger_s = linger_s
        self._task: asyncio.Task[None] | None = None
        self._done = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def started(self) -> bool:
        """Was it requested?"""
        return self._task is not None

    async def run(self) -> None:
        """Drain, or wait for the drain that runs; a caller that is cancelled does not stop it."""
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="drain")
        await asyncio.shield(self._task)

    def hurry(self) -> None:
        """End the time of serving on: finish the requests that are accepted already."""
        self._hurry.set()

    async def wait(self, seconds: float) -> bool:
        """Is it over? Waits for that at most this long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._done.wait()
        return self._done.is_set()

    async def _drain(self) -> None:
        self._make_unready()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._linger_s):
                await self._hurry.wait()
        await self._finish()
        self._done.set()
