"""A listening HTTP port inside somebody else's event loop: accepts, watches deadlines, stops in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from typing import Final, Protocol

from batchwright_worker.protocol.http.connection import Connection
from batchwright_worker.protocol.http.deadlines import Timeouts
from batchwright_worker.protocol.http.heads import Heads
from batchwright_worker.protocol.http.messages import Answer, Request, json_answer
from batchwright_worker.protocol.tensors import Limits

_LOG = logging.getLogger(__name__)
_GRACE_S: Final = 5.0
_LINGER_S: Final = 2.0


class App(Protocol):
    """Answers requests, at once or later."""

    def handle(self, request: Request) -> None:
        """Every request gets one answer by `request.caller`."""

    def finish(self, request: Request, answer: Answer) -> Answer:
        """A last touch to an answer that the server gives itself."""


class HttpServer:
    """One port. Deadlines are counted in ticks of a tenth of the shortest one; there is no tick while no client is
    connected."""

    def __init__(self, app: App, limits: Limits) -> None:
        self.limits = limits
        self.heads = Heads()
        self.ticks = 1
        self.stopping = False
        self._app = app
        self._tick_s = min(1.0, max(0.02, min(limits.header_seconds, limits.body_seconds, limits.idle_seconds) / 10))
        self.timeouts = Timeouts(
            headers=self._in_ticks(limits.header_seconds),
            body=self._in_ticks(limits.body_seconds),
            idle=self._in_ticks(limits.idle_seconds),
            linger=self._in_ticks(_LINGER_S),
        )
        self._connections: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stop = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def start(self, listener: socket.socket) -> asyncio.Task[None]:
        """Serve on this socket until `stop`."""
        return asyncio.create_task(self._serve(listener), name=f"http {listener.getsockname()[1]}")

    def stop(self) -> None:
        """Close idle connections, let answers go out (some seconds at most), then the task of `start` ends."""
        self.stopping = True
        self._stop.set()

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self), sock=listener, backlog=2048)
        await self._stop.wait()
        server.close()
        for connection in tuple(self._connections):
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await self._empty.wait()
        for connection in tuple(self._connections):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    # --- for its connections (`connection.Port`) ---

    def joined(self, connection: Connection) -> None:
        """See `Port`."""
        self._connections.add(connection)
        self._empty.clear()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    def left(self, connection: Connection) -> None:
        """See `Port`."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def handle(self, request: Request) -> None:
        """See `Port`."""
        try:
            self._app.handle(request)
        except Exception:
            _LOG.exception("%s %s failed", request.method, request.path)
            request.caller.answer(json_answer({"error": "internal error; the sidecar's log has the details"}, 500))

    def finish(self, request: Request, answer: Answer) -> Answer:
        """See `Port`."""
        return self._app.finish(request, answer)

    def _tick(self) -> None:
        self.ticks += 1
        for connection in tuple(self._connections):
            connection.check(self.ticks)
        self._timer = None
        if self._connections:
            self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    def _in_ticks(self, seconds: float) -> int:
        """At least as long."""
        return math.ceil(seconds / self._tick_s) + 1


def http_server(app: App, limits: Limits) -> HttpServer:
    """A server that is not listening yet."""
    return HttpServer(app, limits)


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError, which names the port, if it is taken."""
    listener = socket.create_server((host, port), backlog=2048)
    listener.setblocking(False)
    return listener
