"""One HTTP/1.1 connection: transport, flow control and deadlines around a reader of requests, answered one at a time.

Slow or endless senders meet deadlines and limits: 408, 413, 431, 400; then the connection ends. So it does for a client
that does not read its answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from batchwright_worker.protocol.http.deadlines import Awaited, Deadline, Timeouts
from batchwright_worker.protocol.http.flow_control import FlowControl
from batchwright_worker.protocol.http.heads import Head, Heads
from batchwright_worker.protocol.http.messages import Answer, HttpError, Request, encoded_head, error_answer
from batchwright_worker.protocol.http.request_reader import Missing, RequestReader
from batchwright_worker.protocol.tensors import Limits

DISCARD_BYTES: Final = 8 << 20
"""How much of a refused request is read over: closing with unread bytes would reset the connection, and its sender
would not see the answer."""
_CLOSE: Final = b"connection: close\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Port(Protocol):
    """The listening side, as its connections see it. `ticks` counts up."""

    limits: Limits
    heads: Heads
    ticks: int
    timeouts: Timeouts
    stopping: bool

    def joined(self, connection: Connection) -> None:
        """A connection was made."""

    def left(self, connection: Connection) -> None:
        """It is lost."""

    def handle(self, request: Request) -> None:
        """A whole request; its caller is the connection."""

    def finish(self, request: Request, answer: Answer) -> Answer:
        """A last touch to an answer that the connection gives itself."""


class Connection(asyncio.BufferedProtocol):
    """See the module. It is the `Caller` of the request that is being answered."""

    def __init__(self, port: Port) -> None:
        self.on_gone: Callable[[], object] | None = None
        self._port = port
        self._reader = RequestReader(port.heads, port.limits)
        self._deadline = Deadline()
        self._transport: asyncio.Transport | None = None
        self._flow: FlowControl  # of the transport
        self._answering: Head | None = None  # of the request that is being answered
        self._advancing = False
        self._closing = False
        self._discard = 0  # bytes of a refused request that are still read over

    # --- the caller of the request that is answered ---

    @property
    def gone(self) -> bool:
        """See `Caller`."""
        return self._transport is None

    def answer(self, answer: Answer) -> None:
        """See `Caller`."""
        head = self._answering
        body = b"" if head is not None and head.method == "HEAD" else answer.body
        self.send(encoded_head(answer.status, answer.headers, len(answer.body)), body)

    def send(self, head: bytes, *body: bytes) -> None:
        """See `Caller`."""
        transport, asked = self._transport, self._answering
        if transport is None or asked is None:
            return
        self._answering = self.on_gone = None
        # One write is one system call and one segment; several would wait for each other behind Nagle's algorithm.
        if not asked.keep_alive or self._port.stopping:
            transport.write(b"".join((head, _CLOSE, b"\r\n", *body)))
            self._hang_up()
            return
        transport.write(b"".join((head, asked.connection, b"\r\n", *body)))
        if self._reader.release():
            if self._flow.can_write:
                self._deadline.start(self._port.ticks + self._port.timeouts.idle, Awaited.NEXT_REQUEST)
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
        self._port.joined(self)
        if self._port.stopping:
            self._hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio.Protocol."""
        self._transport = None
        self._deadline.stop()
        self._port.left(self)
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None:
            on_gone()

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio.BufferedProtocol."""
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio.BufferedProtocol."""
        if self._closing:
            self._discard -= nbytes
            if self._discard <= 0:
                self._hang_up()
            return
        reader = self._reader
        filled = reader.received(nbytes)
        if self._answering is None:
            self._advance()
        if filled and reader.is_full and not self._closing:
            self._flow.pause_reading()

    def pause_writing(self) -> None:
        """asyncio.Protocol: the client does not read its answers; it gets no more before it does."""
        self._flow.can_write = False
        if self._answering is None:
            self._deadline.start(self._port.ticks + self._port.timeouts.body, Awaited.READING)

    def resume_writing(self) -> None:
        """asyncio.Protocol."""
        self._flow.can_write = True
        if self._deadline.awaits(Awaited.READING):
            self._deadline.start(self._port.ticks + self._port.timeouts.idle, Awaited.NEXT_REQUEST)
        if self._answering is None and not self._closing:
            self._advance()
            self._read_on()

    # --- requests ---

    def _advance(self) -> None:
        """Hand whole requests on until one is being answered or more bytes are needed."""
        self._advancing = True  # an application that answers at once calls `send` from in here
        while self._answering is None and self._flow.can_write and not self._closing:
            try:
                request = self._reader.next_request(self)
            except HttpError as error:
                self._refuse(error)
                break
            if not isinstance(request, Request):
                self._wait_for(request)
                break
            self._answering = request.head
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
        if awaited in (Awaited.READING, Awaited.FLUSHING):
            self.abort()
        else:
            self._hang_up()

    def finish(self) -> None:
        """The port stops: hang up, after the answer that is due."""
        if self._answering is None:
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

    def _refuse(self, error: HttpError) -> None:
        """An answer to what is no whole request; what still comes is read over for a while."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        answer = error_answer(error)
        if (begun := self._reader.head) is not None:
            answer = self._port.finish(Request(begun, memoryview(b""), self), answer)
        head = encoded_head(answer.status, answer.headers, len(answer.body))
        transport.write(b"".join((head, _CLOSE, b"\r\n", answer.body)))
        self._closing = True
        self._reader.clear()
        self._discard = DISCARD_BYTES
        self._deadline.start(self._port.ticks + self._port.timeouts.linger, Awaited.LINGERING)
        self._read_on()
