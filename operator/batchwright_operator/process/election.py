"""The election in a thread of its own: whatever keeps the operator's event loop busy, the Lease is renewed in time.

A leader whose loop does not come round at all for long is not well: it lets the Lease go, and another replica leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Final

from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.credentials import Credentials
from batchwright_operator.process.lease import Elector

SILENCE_MAX_S: Final = 20.0
STOP_S: Final = 5.0


class Election:
    """Runs `lead` in the loop that made this object while the Lease is ours. `silent_s`: for how long that loop has
    been silent."""

    def __init__(
        self, credentials: Credentials, namespace: str, name: str, identity: str, *, silent_s: Callable[[], float]
    ) -> None:
        self._credentials = credentials
        self._place = (namespace, name, identity)
        self._silent_s = silent_s
        self._main = asyncio.get_running_loop()
        self._elector: Elector | None = None
        self._result: Future[None] = Future()

    def leads(self) -> bool:
        """Whether the Lease is certainly ours; may be asked in any thread."""
        return self._elector is not None and self._elector.leads

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled; raises what `lead` raises. The Lease is released at the end."""
        thread = threading.Thread(target=self._run, args=(lead,), name="election", daemon=True)
        thread.start()
        try:
            await asyncio.shield(asyncio.wrap_future(self._result))
        finally:
            self._stop()
            await asyncio.to_thread(thread.join, STOP_S)

    # --- in the thread

    def _run(self, lead: Callable[[], Awaitable[None]]) -> None:
        try:
            asyncio.run(self._elect(lead))
        except asyncio.CancelledError:
            self._result.set_result(None)
        except BaseException as error:
            self._result.set_exception(error)

    async def _elect(self, lead: Callable[[], Awaitable[None]]) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        async with ApiClient(self._credentials) as client:
            self._elector = Elector(
                client, *self._place, clock=time.monotonic, is_well=lambda: self._silent_s() < SILENCE_MAX_S
            )
            await self._elector.run(lambda: self._lead(lead))

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Leads over there; when cancelled, stops that and waits a while until it has stopped."""
        ended = asyncio.Event()
        here = asyncio.get_running_loop()

        async def over_there() -> None:
            try:
                await lead()
            finally:
                with contextlib.suppress(RuntimeError):  # nobody waits any more
                    here.call_soon_threadsafe(ended.set)

        leading = asyncio.run_coroutine_threadsafe(over_there(), self._main)
        try:
            await asyncio.wrap_future(leading)
        finally:
            leading.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await ended.wait()

    # --- in the loop that made this object

    _loop: asyncio.AbstractEventLoop | None = None
    _task: asyncio.Task[Any] | None = None

    def _stop(self) -> None:
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
