"""A listening HTTP port in an event loop: accepts connections, moves their deadlines, stops in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import ssl
from typing import Final

from batchwright_worker.protocol.http.connection import HttpConnection
from batchwright_worker.protocol.http.deadlines import Timeouts
from batchwright_worker.protocol.http.heads import HeadCache
from batchwright_worker.protocol.http.messages import App, HttpRequest, HttpResponse, internal_error
from batchwright_worker.protocol.http.receive_buffers import ReceiveBuffers
from batchwright_worker.protocol.http.request_reader import END
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.request_memory import RequestMemory
from batchwright_worker.protocol.tls import Certificates, alert_of
from batchwright_worker.protocol.tls_refusals import Refusals

_GRACE_S: Final = 5.0
"""How long responses that are due may still go out after `stop`."""
_LINGER_S: Final = 2.0
"""How long the rest of a refused request is read over, so that its sender gets to see the response."""
_BACKLOG: Final = 2048
"""Connections that may wait to be accepted."""
_ACCEPT_AGAIN_S: Final = 1.0
_LOG = logging.getLogger(__name__)


class HttpServer:
    """The server of one port, which listens from `start` on. Its deadlines are counted in ticks of a tenth of the
    shortest one; there is no tick while no client is connected. What its requests hold counts in `memory`."""

    def __init__(self, app: App, limits: Limits, memory: RequestMemory | None = None) -> None:
        self.limits = limits
        self.heads = HeadCache()
        self.buffers = ReceiveBuffers(memory or RequestMemory(), limits.header_bytes + len(END))
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
        self._connections: set[HttpConnection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stop = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._refusals = Refusals()

    def start(self, listener: socket.socket, certificates: Certificates | None = None) -> asyncio.Task[None]:
        """Serve on this socket until `stop`; by TLS where there are certificates."""
        return asyncio.create_task(self._serve(listener, certificates), name=f"http {listener.getsockname()[1]}")

    def stop(self) -> None:
        """Close idle connections, let responses go out (some seconds at most), then the task of `start` ends."""
        self.stopping = True
        self._stop.set()

    async def _serve(self, listener: socket.socket, certificates: Certificates | None) -> None:
        await (self._listen(listener) if certificates is None else self._listen_tls(listener, certificates))
        for connection in tuple(self._connections):
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await self._empty.wait()
        for connection in tuple(self._connections):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    async def _listen(self, listener: socket.socket) -> None:
        """Accept connections until `stop`."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: HttpConnection(self), sock=listener, backlog=_BACKLOG)
        await self._stop.wait()
        server.close()

    async def _listen_tls(self, listener: socket.socket, certificates: Certificates) -> None:
        """The same by TLS, each connection with the certificate that is in force as it comes."""
        accepting = asyncio.create_task(self._accept_tls(listener, certificates))
        await self._stop.wait()
        ending = (accepting, *self._handshakes)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        listener.close()

    async def _accept_tls(self, listener: socket.socket, certificates: Certificates) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listener)
                again = accepted.dup()
            except OSError as error:  # out of file descriptors, most likely
                _LOG.warning("no connection can be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_AGAIN_S)
                continue
            handshake = loop.create_task(self._shake_hands(accepted, again, peer[0], certificates.context))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    async def _shake_hands(
        self, accepted: socket.socket, again: socket.socket, peer: str, context: ssl.SSLContext
    ) -> None:
        """Through `loop.connect_accepted_socket`, which says why a handshake fails; `loop.create_server` does not. The
        event loop closes `accepted` then; `again` is the same connection."""
        with again:
            try:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: HttpConnection(self),
                    accepted,
                    ssl=context,
                    ssl_handshake_timeout=self.limits.header_seconds,
                    ssl_shutdown_timeout=_GRACE_S,
                )
            except OSError as error:  # ssl's errors, too
                self._refusals.tell(peer, error)
                with contextlib.suppress(OSError):
                    await _last_words(again, alert_of(error))

    # --- for its connections (`connection.ConnectionPort`) ---

    def opened(self, connection: HttpConnection) -> None:
        """See `ConnectionPort`."""
        self._connections.add(connection)
        self._empty.clear()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    def closed(self, connection: HttpConnection) -> None:
        """See `ConnectionPort`."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def handle(self, request: HttpRequest) -> None:
        """See `ConnectionPort`."""
        # A bug of the application costs its request a 500, not the connection: the event loop would close it.
        try:
            self._app.handle(request)
        except Exception:
            request.caller.respond(internal_error(request))

    def with_common_headers(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """See `ConnectionPort`."""
        return self._app.with_common_headers(request, response)

    def _tick(self) -> None:
        self.ticks += 1
        for connection in tuple(self._connections):
            connection.check(self.ticks)
        self._timer = None
        if self._connections:
            self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    def _in_ticks(self, seconds: float) -> int:
        """At least as long: one tick more, because the first may be about to end."""
        return math.ceil(seconds / self._tick_s) + 1


async def _last_words(connection: socket.socket, alert: bytes) -> None:
    """Tell the client why; what it sends meanwhile is read over, or it would see a reset instead. Raises OSError."""
    if not alert:
        return
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_LINGER_S):
        await loop.sock_sendall(connection, alert)
        connection.shutdown(socket.SHUT_WR)
        while await loop.sock_recv(connection, 1 << 16):
            pass


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError, which names the port, if it is taken."""
    listener = socket.create_server((host, port), backlog=_BACKLOG)
    listener.setblocking(False)
    return listener
