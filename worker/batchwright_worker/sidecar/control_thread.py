"""The control port's own thread and event loop: probes and the operator are answered whatever the sidecar's does."""

from __future__ import annotations

import asyncio
import socket
import threading

import uvloop

from batchwright_worker.protocol.http.messages import App
from batchwright_worker.protocol.http.server import HttpServer
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.request_memory import RequestMemory


class ControlThread:
    """Serves an application on a socket from `start` until `stop`."""

    def __init__(self, app: App, limits: Limits, listener: socket.socket) -> None:
        self._app = app
        self._limits = limits
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: HttpServer | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Returns when the thread's event loop runs."""
        self._thread.start()
        self._started.wait()

    async def stop(self) -> None:
        """Responses that are due go out (some seconds at most), then the thread ends."""
        if self._loop is not None and self._server is not None:
            self._loop.call_soon_threadsafe(self._server.stop)
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = HttpServer(self._app, self._limits, RequestMemory())
        self._started.set()
        await self._server.start(self._listener)
