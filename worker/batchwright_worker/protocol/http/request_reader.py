"""Requests out of the bytes of one HTTP connection. No I/O: bytes in; whole requests, refusals or "need more" out.

Bytes are received into a buffer that the reader has while it holds any, and large bodies into memory of their own size,
so that tensors are views of what the kernel wrote. Requests that a client sends ahead wait in the buffer, then in the
socket. What a body is going to take is asked for before any of it is received.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from batchwright_worker.protocol.http.chunks import BadChunkError, Chunks, ChunkTooLargeError
from batchwright_worker.protocol.http.heads import CHUNKED, BadHeadError, HeadCache, ParsedHead
from batchwright_worker.protocol.http.messages import Caller, HttpError, HttpRequest, too_large
from batchwright_worker.protocol.http.receive_buffers import ReceiveBuffers
from batchwright_worker.protocol.limits import Limits

END: Final = b"\r\n\r\n"
"""The end of a head."""
COPIED_BYTES: Final = 1 << 12
"""A body of at most this size that nothing follows is moved out of the buffer."""
_NO_BYTES: Final = bytearray()
_NOTHING: Final = memoryview(_NO_BYTES)


class Missing(Enum):
    """What has to arrive before there is a whole request. CONTINUE: a body whose sender waits for 100 Continue."""

    REQUEST = "request"
    HEAD = "head"
    BODY = "body"
    CONTINUE = "continue"


class RequestReader:
    """Reader of one connection: `buffer` and `received` for each arrival, then `next_request`, then `release`.

    A request's content stays where it is until `release`: between `next_request` and `release` bytes may arrive, but
    room is made, and bytes are overwritten, by the following `next_request` only. `head` is that of the request whose
    body arrives, or that was handed out and is not released yet.
    """

    __slots__ = (
        "_begin",
        "_buffer",
        "_buffers",
        "_chunks",
        "_end",
        "_filled",
        "_heads",
        "_held",
        "_large",
        "_last",
        "_last_raw",
        "_limits",
        "_scanned",
        "_view",
        "_whole",
        "head",
    )

    def __init__(self, heads: HeadCache, limits: Limits, buffers: ReceiveBuffers) -> None:
        """`buffers` are larger than the largest head that is served: a longer one is seen and refused while there is
        room left."""
        self._heads = heads
        self._limits = limits
        self._buffers = buffers
        self._buffer = _NO_BYTES
        self._view = _NOTHING  # of the buffer; empty while there is none
        self._begin = 0  # of what is not yet taken as a request
        self._end = 0  # of what has arrived
        self._scanned = 0  # no head ends before this
        self._last_raw = b""
        self._last: ParsedHead | None = None
        self._large: memoryview | None = None  # a body that does not fit the buffer
        self._filled = 0  # bytes of it that have arrived
        self._whole: memoryview | None = None  # such a body, arrived
        self._chunks: Chunks | None = None
        self._held = 0  # bytes of a body outside of the buffer that are counted as held
        self.head: ParsedHead | None = None

    # --- bytes in ---

    def buffer(self) -> memoryview:
        """Where the next bytes belong; empty when `is_full`."""
        if self._large is not None:
            return self._large[self._filled :]
        if self._end:
            return self._view[self._end :]
        if self._view is _NOTHING:
            self._view = view = self._buffers.lend()
            self._buffer = view.obj  # type: ignore[assignment]  # a memoryview's object, here a bytearray
        return self._view

    def received(self, nbytes: int) -> bool:
        """That many bytes have been written to `buffer()`. True if this filled it."""
        if self._large is None:
            self._end = end = self._end + nbytes
            return end == self._buffers.size
        self._filled += nbytes
        if self._filled == len(self._large):
            self._whole, self._large = self._large, None
            self._buffers.memory.arrived(self._held)
        return False

    @property
    def is_full(self) -> bool:
        """Is there no room for further bytes before the next `next_request`?"""
        return self._end == self._buffers.size and self._large is None

    # --- requests out ---

    def next_request(self, caller: Caller) -> HttpRequest | Missing:
        """The next whole request, or what is missing. Raises HttpError for what is no request that is served here, and
        QueueFull for a body that there is no memory for; the connection cannot go on then."""
        head = self.head
        if head is None:
            head = self._next_head()
            if head is None:
                return Missing.HEAD if self._begin != self._end else Missing.REQUEST
            self.head = head
        size, begin = head.body_bytes, self._begin
        if 0 <= size <= self._end - begin:
            self._begin = end = begin + size
            body = self._view[begin:end]
            if end == self._end and size <= COPIED_BYTES:
                # Of a few rows a copy is cheaper than a whole buffer for as long as they wait.
                body = memoryview(bytes(body))
                self._buffers.memory.held_bytes += size
                self._held = size
                self._empty_buffer()
            return HttpRequest(head, body, caller)
        content = self._chunked(head) if size == CHUNKED else self._sized(head)
        return content if isinstance(content, Missing) else HttpRequest(head, content, caller)

    def release(self) -> bool:
        """The content of the last request is no longer used. True if nothing has arrived behind it."""
        self.head = None
        if self._held:
            self._buffers.memory.release(self._held)
            self._held = 0
        if self._begin != self._end:
            return False
        self._empty_buffer()
        return True

    def clear(self) -> None:
        """Forget everything that has arrived."""
        if self._large is not None or self._chunks is not None:
            self._buffers.memory.arrived(self._held)
        self._buffers.memory.release(self._held)
        self._held = 0
        self._large = self._whole = self._chunks = self.head = None
        if self._end:
            # Rows of a request that was answered early, or whose client has left, may still be looked at.
            self._buffers.forget()
            self._view, self._buffer = _NOTHING, _NO_BYTES
        self._empty_buffer()

    def _empty_buffer(self) -> None:
        """Nothing in the buffer is needed any more: others may have it until bytes arrive here again."""
        self._begin = self._end = self._scanned = 0
        if self._view is not _NOTHING:
            self._buffers.take_back(self._view)
            self._view, self._buffer = _NOTHING, _NO_BYTES

    # --- heads ---

    def _next_head(self) -> ParsedHead | None:
        begin, last = self._begin, self._last_raw
        # Clients that keep a connection repeat one head: comparing bytes is cheaper than looking for the blank line.
        if last and self._end - begin >= len(last) and self._buffer.startswith(last, begin):
            self._begin, self._scanned = begin + len(last), 0
            return self._last
        while begin < self._end and self._buffer[begin] in b"\r\n":
            begin += 1
        self._begin = begin
        # The blank line may have been cut: the search goes back by its length.
        end = self._buffer.find(END, max(begin, self._scanned - len(END)), self._end) + len(END)
        if end < len(END):
            self._want_head()
            return None
        raw = bytes(self._view[begin:end])
        self._begin, self._scanned = end, 0
        if len(raw) > self._limits.header_bytes:
            raise self._headers_too_large()
        return self._known_head(raw)

    def _known_head(self, raw: bytes) -> ParsedHead:
        try:
            head = self._heads.of(raw)
        except BadHeadError as error:
            raise HttpError(error.status, f"{error}; send a request of HTTP/1.1") from error
        self._last_raw, self._last = raw, head
        return head

    def _want_head(self) -> None:
        """Only a part of a head is there, or nothing."""
        waiting = self._end - self._begin
        if waiting > self._limits.header_bytes:
            raise self._headers_too_large()
        if waiting:
            self._make_room(self._buffers.size)
            self._scanned = self._end
        else:
            self._empty_buffer()

    def _headers_too_large(self) -> HttpError:
        return HttpError(431, f"headers exceed {self._limits.header_bytes} bytes; send fewer or shorter ones")

    # --- bodies that are not all in the buffer ---

    def _sized(self, head: ParsedHead) -> memoryview | Missing:
        """The body of a known length."""
        if self._whole is not None:
            content, self._whole = self._whole, None
            return content
        if self._large is not None:
            return Missing.BODY
        size = head.body_bytes
        if size > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)
        missing = self._missing_body(head)
        if size > self._buffers.size:
            self._make_large(size)
        else:
            self._make_room(size)
        return missing

    def _chunked(self, head: ParsedHead) -> memoryview | Missing:
        chunks = self._chunks
        if chunks is None:
            chunks = self._chunks = Chunks(self._limits.body_bytes)
        try:
            self._begin += chunks.feed(self._view[self._begin : self._end])
        except BadChunkError as error:
            raise HttpError(400, f"the chunked body is broken: {error}; send it again") from error
        except ChunkTooLargeError:
            raise too_large(self._limits.body_bytes) from None
        memory, grown = self._buffers.memory, len(chunks.body) - self._held
        if grown > 0:
            memory.announce(grown)
            self._held += grown
        if chunks.done:
            self._chunks = None
            memory.arrived(self._held)
            return memoryview(chunks.body)
        self._empty_buffer()
        return self._missing_body(head)

    def _missing_body(self, head: ParsedHead) -> Missing:
        """A sender whose first bytes of the body are here does not wait for 100 Continue."""
        return Missing.CONTINUE if head.expects_continue and self._begin == self._end else Missing.BODY

    def _make_room(self, size: int) -> None:
        """`size` bytes from the first that is not yet taken; nothing looks at those before it any more."""
        if self._begin and self._buffers.size - self._begin < size:
            waiting = self._end - self._begin
            self._view[:waiting] = self._view[self._begin : self._end]
            self._begin, self._end = 0, waiting

    def _make_large(self, size: int) -> None:
        """Memory for a body that does not fit the buffer. Raises QueueFull."""
        self._buffers.memory.announce(size)
        self._held = size
        arrived = self._end - self._begin
        self._large = memoryview(bytearray(size))
        self._large[:arrived] = self._view[self._begin : self._end]
        self._filled = arrived
        self._empty_buffer()
