"""One HTTP/1.1 connection: an inbox of requests, and answers back, one request at a time.

Slow or endless senders meet deadlines and limits: 408, 413, 431, 400; then the connection ends. So it does for a client
that does not read its answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from batchwright_worker.protocol.http.messages import Answer, HttpError, Request, encoded_head, error_answer
from batchwright_worker.protocol.http.request_reader import Inbox, Port

DISCARD_BYTES = 8 << 20
"""How much of a refused request is read over, so that its sender gets to see the answer."""
_CLOSE = b"connection: close\r\n"


class Connection(Inbox):
    """See the module. It is the `Caller` of the request that is being answered."""

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self.on_gone: Callable[[], object] | None = None

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
