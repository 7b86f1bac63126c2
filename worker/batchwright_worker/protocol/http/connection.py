"""One HTTP/1.1 connection: transport, flow control and deadlines around a reader of requests; one response at a time.

Slow or endless senders meet deadlines and limits: 408, 413, 431, 400; then the connection ends. So it does for a client
that does not read its responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.protocol.http.deadlines import Awaited, Deadline, Timeouts
from batchwright_worker.protocol.http.flow_control import FlowControl
from batchwright_worker.protocol.http.heads import HeadCache, ParsedHead
from batchwright_worker.protocol.http.messages import HttpError, HttpRequest, HttpResponse, ResponseHead, error_response
from batchwright_worker.protocol.http.receive_buffers import ReceiveBuffers
from batchwright_worker.protocol.http.request_reader import Missing, RequestReader
from batchwright_worker.protocol.limits import Limits

DISCARD_BYTES: Final = 8 << 20
"""How much of a refused request is read over: closing with unread bytes would reset the connection, and its sender
would not see the response."""
_NEXT_REQUEST: Final = Awaited.NEXT_REQUEST
"""Looked up once: Python 3.11 takes 0.1 us to find a member in its Enum, and every response starts this wait."""
_CLOSE: Final = b"connection: close\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class ConnectionPort(Protocol):
    """The listening side, as its connections see it. `ticks` counts up."""

    limits: Limits
    heads: HeadCache
    buffers: ReceiveBuffers
    ticks: int
    timeouts: Timeouts
    stopping: bool

    def opened(self, connection: HttpConnection) -> None:
        """A connection was made."""

    def closed(self, connection: HttpConnection) -> None:
        """It is lost."""

    def handle(self, request: HttpRequest) -> None:
        """A whole request; its caller is the connection."""

    def with_common_headers(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """See `App`; for a response that the connection gives itself."""


class HttpConnection(asyncio.BufferedProtocol):
    """See the module. It is the `Caller` of the request that is being responded to."""

    def __init__(self, port: ConnectionPort) -> None:
        self.on_disconnect: Callable[[], object] | None = None
        self._port = port
        self._reader = RequestReader(port.heads, port.limits, port.buffers)
        self._deadline = Deadline()
        self._transport: asyncio.Transport | None = None
        self._flow: FlowControl  # of the transport
        self._head: ParsedHead | None = None  # of the request that is being responded to
        self._advancing = False
        self._closing = False
        self._discard = 0  # bytes of a refused request that are still read over
        self._unread = 0  # bytes of responses that the client does not read

    # --- Caller ---

    @property
    def disconnected(self) -> bool:
        """See `Caller`."""
        return self._transport is None

    def respond(self, response: HttpResponse) -> None:
        """See `Caller`."""
        head = self._head
        body = b"" if head is not None and head.method == "HEAD" else response.body
        self.send(ResponseHead(response.status, response.headers, len(response.body)), body)

    def send(self, head: ResponseHead, *body: bytes) -> None:
        """See `Caller`."""
        transport, request = self._transport, self._head
        if transport is None or request is None:
            return
        self._head = self.on_disconnect = None
        # One write is one system call and, where it fits, one segment. (Of the CPU of a request writing is 14 %,
        # docs/measurements.md.)
        if not request.keep_alive or self._port.stopping:
            transport.write(b"".join((head.encoded, _CLOSE, b"\r\n", *body)))
            self._hang_up()
            return
        transport.write(b"".join((head.encoded, request.connection, b"\r\n", *body)))
        if self._reader.release():
            if self._flow.can_write:
                self._deadline.start(self._port.ticks + self._port.timeouts.idle, _NEXT_REQUEST)
        elif not self._advancing:
            self._advance()
        if not self._flow.reads:
            self._read_on()

    # --- asyncio.BufferedProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._flow = FlowControl(self._transport)
        self._deadline.start(self._port.ticks + self._port.timeouts.headers, Awaited.HEADERS)
        self._port.opened(self)
        if self._port.stopping:
            self._hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio.Protocol."""
        self._transport = None
        self._deadline.stop()
        self._count_unread(0)
        self._port.closed(self)
        on_disconnect, self.on_disconnect = self.on_disconnect, None
        if on_disconnect is not None:
            on_disconnect()
        self._reader.clear()

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio.BufferedProtocol."""
        return self._port.buffers.scratch if self._closing else self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio.BufferedProtocol."""
        if self._closing:
            self._discard -= nbytes
            if self._discard <= 0:
                self._hang_up()
            return
        reader = self._reader
        filled = reader.received(nbytes)
        if self._head is None:
            self._advance()
        if filled and reader.is_full and not self._closing:
            self._flow.pause_reading()

    def pause_writing(self) -> None:
        """asyncio.Protocol: the client does not read its responses; no further request is taken before it does."""
        self._flow.can_write = False
        if self._transport is not None:
            self._count_unread(self._transport.get_write_buffer_size())
        if self._head is None:
            self._deadline.start(self._port.ticks + self._port.timeouts.body, Awaited.READING)

    def resume_writing(self) -> None:
        """asyncio.Protocol."""
        self._flow.can_write = True
        self._count_unread(0)
        if self._deadline.awaits(Awaited.READING):
            self._deadline.start(self._port.ticks + self._port.timeouts.idle, Awaited.NEXT_REQUEST)
        if self._head is None and not self._closing:
            self._advance()
            self._read_on()

    # --- requests ---

    def _advance(self) -> None:
        """Hand whole requests on until one is being responded to or more bytes are needed."""
        self._advancing = True  # an application that responds at once calls `send` from in here
        while self._head is None and self._flow.can_write and not self._closing:
            try:
                request = self._reader.next_request(self)
            except (HttpError, InferenceError) as error:
                self._refuse(error)
                break
            if not isinstance(request, HttpRequest):
                self._wait_for(request)
                break
            self._head = self._reader.head
            self._deadline.stop()
            self._port.handle(request)
        self._advancing = False

    def _wait_for(self, missing: Missing) -> None:
        """Deadlines count from the first wait for a part: bytes that trickle do not move them."""
        deadline, port = self._deadline, self._port
        if missing is Missing.HEAD:
            if not deadline.awaits(Awaited.HEADERS):
                deadline.start(port.ticks + port.timeouts.headers, Awaited.HEADERS)
        elif missing is not Missing.REQUEST and not deadline.awaits(Awaited.BODY):
            deadline.start(port.ticks + port.timeouts.body, Awaited.BODY)
            if missing is Missing.CONTINUE and self._transport is not None:
                self._transport.write(_CONTINUE)

    def _count_unread(self, size: int) -> None:
        """They count as held, for as long as the client leaves them there."""
        memory, self._unread, before = self._port.buffers.memory, size, self._unread
        memory.must_hold(size)
        memory.release(before)

    def _read_on(self) -> None:
        if self._transport is not None and not self._reader.is_full:
            self._flow.resume_reading()

    # --- deadlines and the end ---

    def check(self, tick: int) -> None:
        """Time passes: end what has been waited for long enough."""
        if not self._deadline.has_passed(tick):
            return
        limits, awaited = self._port.limits, self._deadline.awaited
        if awaited in (Awaited.HEADERS, Awaited.BODY):
            seconds = limits.header_seconds if awaited is Awaited.HEADERS else limits.body_seconds
            self._refuse(
                HttpError(
                    408,
                    f"the {awaited.value} did not arrive within {seconds:g} s; "
                    "send the request again, faster or smaller",
                )
            )
        elif awaited in (Awaited.READING, Awaited.FLUSHING):
            self.abort()
        else:
            self._hang_up()

    def finish(self) -> None:
        """The port stops: hang up, after the response that is due."""
        if self._head is None:
            self._hang_up()

    def abort(self) -> None:
        """Hang up now."""
        if self._transport is not None:
            self._transport.abort()

    def _hang_up(self) -> None:
        """Close once everything is written, which must not take forever."""
        self._closing = True
        self._reader.clear()
        if self._transport is not None and not self._transport.is_closing():
            self._deadline.start(self._port.ticks + self._port.timeouts.body, Awaited.FLUSHING)
            self._transport.close()

    def _refuse(self, error: HttpError | InferenceError) -> None:
        """A response to what is no whole request; what still comes is read over for a while."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        response = error_response(error)
        if (begun := self._reader.head) is not None:
            response = self._port.with_common_headers(HttpRequest(begun, memoryview(b""), self), response)
        head = ResponseHead(response.status, response.headers, len(response.body))
        transport.write(b"".join((head.encoded, _CLOSE, b"\r\n", response.body)))
        self._closing = True
        self._reader.clear()
        self._discard = DISCARD_BYTES
        self._deadline.start(self._port.ticks + self._port.timeouts.linger, Awaited.LINGERING)
        self._read_on()
