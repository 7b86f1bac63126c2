"""One HTTP/1.1 connection: from the socket's bytes to requests, and answers back, one request at a time.

Bytes are received into the connection's own buffer, and large bodies into memory of their own size, so that tensors are
views of what the kernel wrote. Requests that a client sends ahead wait in the buffer, then in the socket. Slow or
endless senders meet deadlines and limits: 408, 413, 431, 400; then the connection ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

from batchwright_worker.sidecar.http_chunks import BadChunkError, Chunks, ChunkTooLargeError
from batchwright_worker.sidecar.http_heads import CHUNKED, BadHeadError, Head, Heads
from batchwright_worker.sidecar.http_messages import Answer, HttpError, Request, encoded_head, error_answer, too_large
from batchwright_worker.sidecar.tensors import Limits

BUFFER_BYTES = 1 << 16
DISCARD_BYTES = 8 << 20
"""How much of a refused request is read over, so that its sender gets to see the answer."""
_END = b"\r\n\r\n"
_CLOSE = b"connection: close\r\n"


class Port(Protocol):
    """The listening side, as its connections see it. `ticks` counts up; the other numbers are in ticks."""

    limits: Limits
    heads: Heads
    ticks: int
    header_ticks: int
    body_ticks: int
    idle_ticks: int
    linger_ticks: int
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
    """See the module. It is the `Caller` of the request that it waits on."""

    def __init__(self, port: Port) -> None:
        self.on_gone: Callable[[], object] | None = None
        self._port = port
        self._transport: asyncio.Transport | None = None
        size = max(BUFFER_BYTES, port.limits.header_bytes + len(_END))
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._begin = 0  # of what is not yet taken as a request
        self._end = 0  # of what has arrived
        self._scanned = 0
        self._last_raw = b""
        self._last: Head | None = None
        self._head: Head | None = None  # of the request that arrives or is answered
        self._large: memoryview | None = None  # a body that does not fit the buffer
        self._filled = 0
        self._chunks: Chunks | None = None
        self._busy = False
        self._advancing = False
        self._reading = True
        self._writable = True
        self._discard = 0
        self._closing = False
        self._due = 0  # tick at which patience ends, 0: never
        self._waits_for = "headers"

    # --- the caller of the request that is answered ---

    @property
    def gone(self) -> bool:
        """See `Caller`."""
        return self._transport is None

    def answer(self, answer: Answer) -> None:
        """See `Caller`."""
        head = self._head
        body = b"" if head is not None and head.method == "HEAD" else answer.body
        self.send(encoded_head(answer.status, answer.headers, len(answer.body)), body)

    def send(self, head: bytes, *body: bytes) -> None:
        """See `Caller`."""
        transport, asked = self._transport, self._head
        if transport is None or asked is None:
            return
        self._head, self._busy, self.on_gone = None, False, None
        if asked.keep_alive and not self._port.stopping:
            transport.write(b"".join((head, asked.connection, b"\r\n", *body)))
        else:
            transport.write(b"".join((head, _CLOSE, b"\r\n", *body)))
            self._hang_up()
            return
        if self._begin == self._end:
            self._begin = self._end = 0
            if self._writable:
                self._due, self._waits_for = self._port.ticks + self._port.idle_ticks, "idle"
        elif not self._advancing:
            self._advance()
        if not self._reading:
            self._read_on()

    # --- asyncio.BufferedProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._due = self._port.ticks + self._port.header_ticks
        self._port.joined(self)
        if self._port.stopping:
            self._hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio.Protocol."""
        self._transport = None
        self._due = 0
        self._port.left(self)
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None:
            on_gone()

    def get_buffer(self, sizehint: int) -> Any:
        """asyncio.BufferedProtocol."""
        if self._large is not None:
            return self._large[self._filled :]
        return self._view[self._end :] if self._end else self._view

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio.BufferedProtocol."""
        if self._large is not None:
            self._filled += nbytes
            if self._filled == len(self._large):
                self._handle(self._large)
        elif self._closing:
            self._discard -= nbytes
            if self._discard <= 0:
                self._hang_up()
        else:
            self._end += nbytes
            if not self._busy:
                self._advance()
            if self._end == len(self._buffer) and self._reading and not self._closing and self._large is None:
                self._reading = False
                cast(asyncio.Transport, self._transport).pause_reading()

    def pause_writing(self) -> None:
        """asyncio.Protocol: the client does not read its answers; it gets no more before it does."""
        self._writable = False
        if not self._busy:
            self._due, self._waits_for = self._port.ticks + self._port.body_ticks, "reader"

    def resume_writing(self) -> None:
        """asyncio.Protocol."""
        self._writable = True
        if self._waits_for == "reader":
            self._due, self._waits_for = self._port.ticks + self._port.idle_ticks, "idle"
        if not self._busy and not self._closing and self._begin != self._end:
            self._advance()
            self._read_on()

    # --- deadlines and the end ---

    def check(self, tick: int) -> None:
        """Time passes: end what has been waited for long enough."""
        if not self._due or tick < self._due:
            return
        limits, what = self._port.limits, self._waits_for
        if what in ("headers", "body"):
            seconds = limits.header_seconds if what == "headers" else limits.body_seconds
            self._refuse(
                408, f"the {what} did not arrive within {seconds:g} s; send the request again, faster or smaller"
            )
        if what in ("reader", "flush"):
            self.abort()
        else:
            self._hang_up()

    def finish(self) -> None:
        """The port stops: hang up, after the answer that is due."""
        if not self._busy:
            self._hang_up()

    def abort(self) -> None:
        """Hang up now."""
        if self._transport is not None:
            self._transport.abort()

    def _hang_up(self) -> None:
        """Close once all is written, which must not take for ever."""
        self._closing, self._large = True, None
        if self._transport is not None and not self._transport.is_closing():
            self._due, self._waits_for = self._port.ticks + self._port.body_ticks, "flush"
            self._transport.close()

    def _refuse(self, status: int, why: str) -> None:
        """An answer to what is no whole request; what still comes is read over for a while."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        answer = error_answer(HttpError(status, why))
        if self._head is not None:
            answer = self._port.finish(Request(self._head, self._view[:0], self), answer)
        head = encoded_head(answer.status, answer.headers, len(answer.body))
        transport.write(b"".join((head, _CLOSE, b"\r\n", answer.body)))
        self._closing, self._large, self._chunks, self._head = True, None, None, None
        self._begin = self._end = 0
        self._discard = DISCARD_BYTES
        self._due, self._waits_for = self._port.ticks + self._port.linger_ticks, "end"
        self._read_on()

    def _read_on(self) -> None:
        if not self._reading and self._transport is not None and self._end < len(self._buffer):
            self._reading = True
            self._transport.resume_reading()

    # --- from bytes to requests ---

    def _advance(self) -> None:
        """Take whole requests out of the buffer until one is being answered or more bytes are needed."""
        self._advancing = True
        while not self._busy and self._writable and not self._closing:
            head = self._head
            if head is None:
                head = self._head = self._next_head()
            if head is None or not self._take_body(head):
                break
        self._advancing = False

    def _next_head(self) -> Head | None:
        begin, last = self._begin, self._last_raw
        if last and self._end - begin >= len(last) and self._buffer.startswith(last, begin):
            self._begin = begin + len(last)
            return self._last
        while begin < self._end and self._buffer[begin] in b"\r\n":
            begin += 1
        self._begin = begin
        end = self._buffer.find(_END, max(begin, self._scanned - len(_END)), self._end) + len(_END)
        if end < len(_END):
            self._want_head()
            return None
        raw = bytes(self._view[begin:end])
        self._begin, self._scanned = end, 0
        if len(raw) > self._port.limits.header_bytes:
            self._refuse_headers()
            return None
        return self._known_head(raw)

    def _known_head(self, raw: bytes) -> Head | None:
        try:
            head = self._port.heads.of(raw)
        except BadHeadError as error:
            self._refuse(error.status, f"{error}; send a request of HTTP/1.1")
            return None
        self._last_raw, self._last = raw, head
        return head

    def _want_head(self) -> None:
        """Only a part of a head is there."""
        waiting = self._end - self._begin
        if waiting > self._port.limits.header_bytes:
            self._refuse_headers()
            return
        if not waiting:
            self._begin = self._end = self._scanned = 0
            return
        self._make_room(len(self._buffer))
        self._scanned = self._end
        if self._waits_for != "headers" or not self._due:
            self._due, self._waits_for = self._port.ticks + self._port.header_ticks, "headers"

    def _refuse_headers(self) -> None:
        self._refuse(431, f"headers exceed {self._port.limits.header_bytes} bytes; send fewer or shorter ones")

    def _take_body(self, head: Head) -> bool:
        """True when a whole request was handed on (or refused)."""
        size, begin = head.body_bytes, self._begin
        if size == CHUNKED:
            return self._take_chunks(head)
        if self._end - begin >= size:
            self._begin = begin + size
            self._handle(self._view[begin : begin + size])
            return True
        if size > self._port.limits.body_bytes:
            self._refuse_body()
            return True
        self._want_body(head)
        if size > len(self._buffer):
            self._make_large(size)
        else:
            self._make_room(size)
        return False

    def _take_chunks(self, head: Head) -> bool:
        chunks = self._chunks
        if chunks is None:
            chunks = self._chunks = Chunks(self._port.limits.body_bytes)
        try:
            self._begin += chunks.feed(self._view[self._begin : self._end])
        except BadChunkError as error:
            self._refuse(400, f"the chunked body is broken: {error}; send it anew")
            return True
        except ChunkTooLargeError:
            self._refuse_body()
            return True
        if chunks.done:
            self._chunks = None
            self._handle(memoryview(chunks.body))
            return True
        self._begin = self._end = 0
        self._want_body(head)
        return False

    def _want_body(self, head: Head) -> None:
        if self._waits_for == "body" and self._due:
            return
        self._due, self._waits_for = self._port.ticks + self._port.body_ticks, "body"
        if head.expects_continue and self._begin == self._end and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse_body(self) -> None:
        error = too_large(self._port.limits.body_bytes)
        self._refuse(error.status, str(error))

    def _make_room(self, size: int) -> None:
        """`size` bytes from the first that is not yet taken; nothing looks at those before it any more."""
        if self._begin and len(self._buffer) - self._begin < size:
            waiting = self._end - self._begin
            self._view[:waiting] = self._view[self._begin : self._end]
            self._begin, self._end = 0, waiting

    def _make_large(self, size: int) -> None:
        here = self._end - self._begin
        self._large = memoryview(bytearray(size))
        self._large[:here] = self._view[self._begin : self._end]
        self._filled = here
        self._begin = self._end = 0

    def _handle(self, content: memoryview) -> None:
        assert self._head is not None
        self._busy, self._large, self._due, self._waits_for = True, None, 0, "answer"
        self._port.handle(Request(self._head, content, self))
