"""uvicorn, and what it lacks: a limit on headers, deadlines for slow clients, word of a caller that has left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from batchwright_worker.sidecar.tensors import Limits

App = Callable[[Any, Any, Any], Awaitable[None]]
SCOPE_KEY = "batchwright.caller"


class Caller:
    """Who waits for one answer. `on_gone` is called if the connection is lost before `answered`."""

    __slots__ = ("done", "gone", "on_gone")

    def __init__(self) -> None:
        self.done = False
        self.gone = False
        self.on_gone: Callable[[], object] | None = None

    def leave(self) -> None:
        """The connection is lost."""
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()


def protocol_of(limits: Limits) -> type[HttpToolsProtocol]:
    """The connection class for these limits (uvicorn makes one object per connection)."""

    class LimitedProtocol(HttpToolsProtocol):
        """408 for a client that is too slow with headers or body, 431 for headers that are too long; then closed."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._callers: set[Caller] = set()
            self._header_bytes = 0
            self._in_headers = True
            self._in_body = False
            self._deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            self._arm(limits.header_seconds, "headers")

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)
            for caller in tuple(self._callers):
                caller.leave()
            self._callers.clear()

        def data_received(self, data: bytes) -> None:
            if self._in_headers:
                self._header_bytes += len(data)
            super().data_received(data)
            if self._in_headers and self._header_bytes > limits.header_bytes:
                self._refuse(b"431 Request Header Fields Too Large", f"headers exceed {limits.header_bytes} bytes")
            elif self._in_headers and self._header_bytes:
                self._arm(limits.header_seconds, "headers")
            elif self._in_body:
                self._arm(limits.body_seconds, "body")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_headers = True
            caller = Caller()
            self._callers.add(caller)
            self.scope[SCOPE_KEY] = caller  # type: ignore[literal-required]

        def on_headers_complete(self) -> None:
            self._disarm()
            self._in_headers, self._in_body, self._header_bytes = False, True, 0
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._disarm()
            self._in_body, self._in_headers = False, True
            super().on_message_complete()

        def on_response_complete(self) -> None:
            self._callers = {caller for caller in self._callers if not caller.done}
            super().on_response_complete()

        def _arm(self, seconds: float, what: str) -> None:
            """Once per phase: bytes that trickle in do not move the deadline."""
            if self._deadline is None:
                self._deadline = self.loop.call_later(seconds, self._too_slow, what, seconds)

        def _disarm(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _too_slow(self, what: str, seconds: float) -> None:
            self._deadline = None
            self._refuse(b"408 Request Timeout", f"the {what} did not arrive within {seconds:g} s")

        def _refuse(self, status: bytes, why: str) -> None:
            if self.transport.is_closing():
                return
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                body = b'{"error":"%s; send the request again, faster or smaller"}' % why.encode()
                head = (
                    b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
                )
                self.transport.write(head % (status, len(body)) + body)
            self.transport.close()

    return LimitedProtocol


class HttpServer(uvicorn.Server):
    """One listening port inside somebody else's event loop: no signal handlers, stopped by `stop`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The process has its own."""
        yield

    def start(self, listener: socket.socket) -> asyncio.Task[None]:
        """Serve on this socket until `stop`."""
        return asyncio.create_task(self.serve(sockets=[listener]), name=f"http {listener.getsockname()[1]}")

    def stop(self) -> None:
        """Close idle connections, let answers go out (some seconds at most), return from `serve`."""
        self.should_exit = True


def http_server(app: App, limits: Limits) -> HttpServer:
    """A server that is not listening yet."""
    return HttpServer(
        uvicorn.Config(
            app,
            http=protocol_of(limits),
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(limits.idle_seconds),
            timeout_graceful_shutdown=5,
            backlog=2048,
        )
    )


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError, which names the port, if it is taken."""
    listener = socket.create_server((host, port), backlog=2048)
    listener.setblocking(False)
    return listener
