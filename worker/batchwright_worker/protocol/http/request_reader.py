"""Requests out of the bytes of one HTTP connection. No I/O: bytes in; whole requests, refusals or "need more" out.

Bytes are received into the reader's own buffer, and large bodies into memory of their own size, so that tensors are
views of what the kernel wrote. Requests that a client sends ahead wait in the buffer, then in the socket.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from batchwright_worker.protocol.http.chunks import BadChunkError, Chunks, ChunkTooLargeError
from batchwright_worker.protocol.http.heads import CHUNKED, BadHeadError, HeadCache, ParsedHead
from batchwright_worker.protocol.http.messages import Caller, HttpError, HttpRequest, too_large
from batchwright_worker.protocol.limits import Limits

BUFFER_BYTES: Final = 1 << 16
"""Of each connection: requests of a few rows fit many times, and a thousand connections take 64 MiB."""
_END: Final = b"\r\n\r\n"


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
        "_chunks",
        "_end",
        "_filled",
        "_heads",
        "_large",
        "_last",
        "_last_raw",
        "_limits",
        "_scanned",
        "_view",
        "_whole",
        "head",
    )

    def __init__(self, heads: HeadCache, limits: Limits) -> None:
        self._heads = heads
        self._limits = limits
        # Larger than the largest head that is served: a longer one is seen and refused before there is no room left.
        self._buffer = bytearray(max(BUFFER_BYTES, limits.header_bytes + len(_END)))
        self._view = memoryview(self._buffer)
        self._begin = 0  # of what is not yet taken as a request
        self._end = 0  # of what has arrived
        self._scanned = 0  # no head ends before this
        self._last_raw = b""
        self._last: ParsedHead | None = None
        self._large: memoryview | None = None  # a body that does not fit the buffer
        self._filled = 0  # bytes of it that have arrived
        self._whole: memoryview | None = None  # such a body, arrived
        self._chunks: Chunks | None = None
        self.head: ParsedHead | None = None

    # --- bytes in ---

    def buffer(self) -> memoryview:
        """Where the next bytes belong; empty when `is_full`."""
        if self._large is not None:
            return self._large[self._filled :]
        return self._view[self._end :] if self._end else self._view

    def received(self, nbytes: int) -> bool:
        """That many bytes have been written to `buffer()`. True if this filled it."""
        if self._large is None:
            self._end = end = self._end + nbytes
            return end == len(self._buffer)
        self._filled += nbytes
        if self._filled == len(self._large):
            self._whole, self._large = self._large, None
        return False

    @property
    def is_full(self) -> bool:
        """Is there no room for further bytes before the next `next_request`?"""
        return self._end == len(self._buffer) and self._large is None

    # --- requests out ---

    def next_request(self, caller: Caller) -> HttpRequest | Missing:
        """The next whole request, or what is missing. Raises HttpError for what is no request that is served here;
        the connection cannot go on then."""
        head = self.head
        if head is None:
            head = self._next_head()
            if head is None:
                return Missing.HEAD if self._begin != self._end else Missing.REQUEST
            self.head = head
        size, begin = head.body_bytes, self._begin
        if 0 <= size <= self._end - begin:
            self._begin = begin + size
            return HttpRequest(head, self._view[begin : begin + size], caller)
        content = self._chunked(head) if size == CHUNKED else self._sized(head)
        return content if isinstance(content, Missing) else HttpRequest(head, content, caller)

    def release(self) -> bool:
        """The content of the last request is no longer used. True if nothing has arrived behind it."""
        self.head = None
        if self._begin != self._end:
            return False
        self._begin = self._end = 0
        return True

    def clear(self) -> None:
        """Forget everything that has arrived and is no whole request."""
        self._large = self._whole = self._chunks = self.head = None
        self._begin = self._end = self._scanned = 0

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
        end = self._buffer.find(_END, max(begin, self._scanned - len(_END)), self._end) + len(_END)
        if end < len(_END):
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
            self._make_room(len(self._buffer))
            self._scanned = self._end
        else:
            self._begin = self._end = self._scanned = 0

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
        if size > len(self._buffer):
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
        if chunks.done:
            self._chunks = None
            return memoryview(chunks.body)
        self._begin = self._end = 0
        return self._missing_body(head)

    def _missing_body(self, head: ParsedHead) -> Missing:
        """A sender whose first bytes of the body are here does not wait for 100 Continue."""
        return Missing.CONTINUE if head.expects_continue and self._begin == self._end else Missing.BODY

    def _make_room(self, size: int) -> None:
        """`size` bytes from the first that is not yet taken; nothing looks at those before it any more."""
        if self._begin and len(self._buffer) - self._begin < size:
            waiting = self._end - self._begin
            self._view[:waiting] = self._view[self._begin : self._end]
            self._begin, self._end = 0, waiting

    def _make_large(self, size: int) -> None:
        arrived = self._end - self._begin
        self._large = memoryview(bytearray(size))
        self._large[:arrived] = self._view[self._begin : self._end]
        self._filled = arrived
        self._begin = self._end = 0
