"""Infer requests whose body is compressed, or whose response is to be: decompressed before they begin, counted against
the memory of requests, their responses compressed on the way out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.protocol.http.compression import Codings, compressed, decompressed
from batchwright_worker.protocol.http.messages import (
    Caller,
    HttpError,
    HttpRequest,
    HttpResponse,
    ResponseHead,
    error_response,
    internal_error,
)
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.request_memory import RequestMemory

if TYPE_CHECKING:
    from batchwright_worker.protocol.http.infer import InferHead


class CompressedRequests:
    """`begin` is that of the plain requests; `with_common_headers` the application's."""

    def __init__(
        self,
        begin: Callable[[HttpRequest, InferHead], None],
        limits: Limits,
        memory: RequestMemory,
        with_common_headers: Callable[[HttpRequest, HttpResponse], HttpResponse],
    ) -> None:
        self._begin = begin
        self._limits = limits
        self._memory = memory
        self._with_common_headers = with_common_headers
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, request: HttpRequest, head: InferHead) -> None:
        """Answer it, later."""
        assert head.codings is not None
        caller = CompressedCaller(request.caller, head.codings, self._memory)
        task = asyncio.get_running_loop().create_task(self._run(request, head, caller))
        self._running.add(task)  # the event loop keeps weak references only
        task.add_done_callback(self._running.discard)
        caller.on_disconnect = task.cancel

    async def _run(self, request: HttpRequest, head: InferHead, caller: CompressedCaller) -> None:
        try:
            content = request.content
            if caller.codings.body:
                content = memoryview(
                    await decompressed(content, caller.codings.body, self._limits.body_bytes, caller.hold)
                )
            self._begin(HttpRequest(request.head, content, caller), head)
        except (InferenceError, HttpError) as error:
            caller.respond(self._with_common_headers(request, error_response(error)))
        except Exception:
            caller.respond(internal_error(request))


class CompressedCaller:
    """The `Caller` of such a request: whoever waits for its response, which is compressed on the way."""

    def __init__(self, caller: Caller, codings: Codings, memory: RequestMemory) -> None:
        self.codings = codings
        self._caller = caller
        self._memory = memory
        self._held = 0
        self._on_disconnect: Callable[[], object] | None = None
        self._sending: asyncio.Task[None] | None = None
        caller.on_disconnect = self._disconnected

    @property
    def on_disconnect(self) -> Callable[[], object] | None:
        """See `Caller`."""
        return self._on_disconnect

    @on_disconnect.setter
    def on_disconnect(self, callback: Callable[[], object] | None) -> None:
        self._on_disconnect = callback

    @property
    def disconnected(self) -> bool:
        """See `Caller`."""
        return self._caller.disconnected

    def hold(self, size: int) -> None:
        """Count bytes of the plain body until the response. Raises QueueFull."""
        self._memory.hold(size)
        self._held += size

    def respond(self, response: HttpResponse) -> None:
        """See `Caller`; an error is short, and stays plain."""
        self._release()
        self._caller.respond(response)

    def send(self, head: ResponseHead, *body: bytes) -> None:
        """See `Caller`."""
        self._release()
        if self.codings.response:
            self._sending = asyncio.get_running_loop().create_task(self._send_compressed(head, b"".join(body)))
        else:
            self._caller.send(head, *body)

    async def _send_compressed(self, head: ResponseHead, plain: bytes) -> None:
        body = await compressed(plain, self.codings.response)
        coding = [(b"content-encoding", self.codings.response), (b"vary", b"accept-encoding")]
        self._caller.send(ResponseHead(head.status, [*head.headers, *coding], len(body)), body)

    def _disconnected(self) -> None:
        self._release()
        if self._on_disconnect is not None:
            self._on_disconnect()

    def _release(self) -> None:
        self._memory.release(self._held)
        self._held = 0
