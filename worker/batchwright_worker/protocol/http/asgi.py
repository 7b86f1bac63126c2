"""The application behind another server: any of ASGI, and uvicorn as `sidecar --http-front-end uvicorn` starts it.

A server of ASGI frames requests and keeps connections; what it leaves to the application is here: the size of a body,
the time that it takes, the memory that it holds, Host and Expect. uvicorn has no deadline for headers, and takes twice
the CPU per request (docs/measurements.md); it is there for those who know it in front of everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Final

from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.protocol.http.connection import DISCARD_BYTES
from batchwright_worker.protocol.http.heads import ONCE
from batchwright_worker.protocol.http.messages import (
    App,
    Header,
    HttpError,
    HttpRequest,
    HttpResponse,
    ResponseHead,
    error_response,
    internal_error,
    too_large,
)
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.request_memory import RequestMemory
from batchwright_worker.protocol.tls import Certificates

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_GRACE_S: Final = 5
_LINGER_S: Final = 2.0
_BACKLOG: Final = 2048


class AsgiHead:
    """A `RequestHead`, of an ASGI scope. Raises HttpError for what RFC 9112 and 9110 say of Host and Expect."""

    def __init__(self, scope: Message) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("latin-1") if scope.get("raw_path") else scope["path"]
        self.query: bytes = scope["query_string"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        length = self.headers.get(b"content-length")
        self.body_bytes = -1 if length is None and b"transfer-encoding" in self.headers else int(length or 0)
        self.route: Any = None
        self.infer: Any = None

    def check(self, scope: Message) -> None:
        """Raises HttpError."""
        hosts = sum(name == b"host" for name, _ in scope["headers"])
        if scope["http_version"] == "1.1" and hosts != 1:
            raise HttpError(400, f"the request has {hosts} Host headers: wanted one; send a request of HTTP/1.1")
        names = [name for name, _ in scope["headers"] if name in ONCE]
        if len(set(names)) < len(names):
            raise HttpError(400, f"the header {names[0].decode()} is there twice: wanted once")
        expected = self.headers.get(b"expect", b"100-continue").lower()
        if scope["http_version"] == "1.1" and expected != b"100-continue":
            raise HttpError(417, f"expectation {expected.decode('latin-1')!r} is not met here")


class AsgiCaller:
    """A `Caller` whose response the coroutine of its request waits for."""

    def __init__(self) -> None:
        self.on_disconnect: Callable[[], object] | None = None
        self.disconnected = False
        self.response: asyncio.Future[tuple[int, list[Header], tuple[bytes, ...], int]]
        self.response = asyncio.get_running_loop().create_future()

    def respond(self, response: HttpResponse) -> None:
        """See `Caller`."""
        self._settle(response.status, response.headers, (response.body,), len(response.body))

    def send(self, head: ResponseHead, *body: bytes) -> None:
        """See `Caller`."""
        self._settle(head.status, head.headers, body, head.body_bytes)

    def leaves(self) -> None:
        """The connection is lost."""
        self.disconnected = True
        on_disconnect, self.on_disconnect = self.on_disconnect, None
        if on_disconnect is not None:
            on_disconnect()

    def _settle(self, status: int, headers: list[Header], body: tuple[bytes, ...], size: int) -> None:
        self.on_disconnect = None
        if not self.response.done():
            self.response.set_result((status, headers, body, size))


class AsgiApp:
    """The ASGI application around an `App`."""

    def __init__(self, app: App, limits: Limits, memory: RequestMemory) -> None:
        self._app = app
        self._limits = limits
        self._memory = memory

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request, from its head to its response."""
        if scope["type"] != "http":
            return
        caller, head = AsgiCaller(), AsgiHead(scope)
        held: list[int] = []
        try:
            try:
                head.check(scope)
                body = await self._body(head, receive, held)
            except (HttpError, InferenceError) as error:
                refused = HttpRequest(head, memoryview(b""), caller)
                caller.respond(self._app.with_common_headers(refused, error_response(error)))
                await self._refuse(head, caller, receive, send)
                return
            self._handle(HttpRequest(head, memoryview(body), caller))
            if await self._answered(caller, receive):
                await self._respond(head, caller, send)
        finally:
            self._memory.release(sum(held))

    async def _body(self, head: AsgiHead, receive: Receive, held: list[int]) -> bytearray:
        """All of it, counted as it comes. Raises HttpError, QueueFull."""
        limit, body = self._limits.body_bytes, bytearray()
        if head.body_bytes > limit:
            raise too_large(limit)
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise HttpError(400, "the connection was lost")
                    piece = message.get("body", b"")
                    if len(body) + len(piece) > limit:
                        raise too_large(limit)
                    self._memory.hold(len(piece))
                    held.append(len(piece))
                    body += piece
                    if not message.get("more_body"):
                        return body
        except TimeoutError:
            raise HttpError(
                408,
                f"the body did not arrive within {self._limits.body_seconds:g} s; "
                "send the request again, faster or smaller",
            ) from None

    def _handle(self, request: HttpRequest) -> None:
        try:
            self._app.handle(request)
        except Exception:
            request.caller.respond(internal_error(request))

    async def _answered(self, caller: AsgiCaller, receive: Receive) -> bool:
        """Wait for the response; False where the client leaves before."""
        if caller.response.done():
            return True
        leaving = asyncio.ensure_future(receive())
        await asyncio.wait((caller.response, leaving), return_when=asyncio.FIRST_COMPLETED)
        if caller.response.done():
            leaving.cancel()
            return True
        caller.leaves()
        return False

    async def _respond(self, head: AsgiHead, caller: AsgiCaller, send: Send) -> None:
        status, headers, body, size = await caller.response
        lines = [*headers, (b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        content = b"" if head.method == "HEAD" else b"".join(body)
        await send({"type": "http.response.body", "body": content})

    async def _refuse(self, head: AsgiHead, caller: AsgiCaller, receive: Receive, send: Send) -> None:
        """A response before the body has arrived: the rest of it is read over for a while, or closing would reset the
        connection before the client has seen the response."""
        status, headers, body, size = await caller.response
        lines = [*headers, (b"content-length", b"%d" % size), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        content = b"" if head.method == "HEAD" else b"".join(body)
        await send({"type": "http.response.body", "body": content, "more_body": True})
        left = DISCARD_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                message = await receive()
                while left > 0 and message.get("more_body"):
                    left -= len(message["body"])
                    message = await receive()
        await send({"type": "http.response.body", "body": b""})


class UvicornServer:
    """uvicorn on one port, started and stopped as `server.HttpServer` is."""

    def __init__(self, app: App, limits: Limits, memory: RequestMemory) -> None:
        import uvicorn

        class Server(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                """The process has its own handlers."""
                yield

        self._config = uvicorn.Config(
            AsgiApp(app, limits, memory),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=round(limits.idle_seconds),
            timeout_graceful_shutdown=_GRACE_S,
        )
        self._server = Server(self._config)

    def start(self, listener: socket.socket, certificates: Certificates | None = None) -> asyncio.Task[None]:
        """Serve on this socket until `stop`; by TLS where there are certificates."""
        self._config.load()
        if certificates is not None:
            self._config.ssl = certificates.following()
        serving = self._server.serve(sockets=[listener])
        return asyncio.create_task(serving, name=f"http {listener.getsockname()[1]}")

    def stop(self) -> None:
        """Close idle connections, let responses go out (some seconds at most), then the task of `start` ends."""
        self._server.should_exit = True
