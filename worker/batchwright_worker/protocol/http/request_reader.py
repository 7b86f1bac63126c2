"""What has arrived on one HTTP connection: from the socket's bytes to whole requests.

Bytes are received into the connection's own buffer, and large bodies into memory of their own size, so that tensors are
views of what the kernel wrote. Requests that a client sends ahead wait in the buffer, then in the socket.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any, Protocol, cast

from batchwright_worker.protocol.http.chunks import BadChunkError, Chunks, ChunkTooLargeError
from batchwright_worker.protocol.http.heads import CHUNKED, BadHeadError, Head, Heads
from batchwright_worker.protocol.http.messages import Answer, Caller, Request, too_large
from batchwright_worker.protocol.tensors import Limits

BUFFER_BYTES = 1 << 16
_END = b"\r\n\r\n"


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

    def joined(self, connection: Any) -> None:
        """A connection was made."""

    def left(self, connection: Any) -> None:
        """It is lost."""

    def handle(self, request: Request) -> None:
        """A whole request; its caller is the connection."""

    def finish(self, request: Request, answer: Answer) -> Answer:
        """A last touch to an answer that the connection gives itself."""


class Inbox(asyncio.BufferedProtocol):
    """The receiving half of a connection. `_due` is the tick at which patience ends (0: never), `_waits_for` what for.

    A request's content stays where it is until it has been answered: room is made, and bytes are overwritten, only
    while no request is being answered.
    """

    def __init__(self, port: Port) -> None:
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

    @abstractmethod
    def _refuse(self, status: int, why: str) -> None:
        """An answer to what is no whole request, and the end of the connection."""

    @abstractmethod
    def _hang_up(self) -> None:
        """The end of the connection."""

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
            self._begin, self._scanned = begin + len(last), 0
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
        self._port.handle(Request(self._head, content, cast(Caller, self)))

    def _read_on(self) -> None:
        if not self._reading and self._transport is not None and self._end < len(self._buffer):
            self._reading = True
            self._transport.resume_reading()
