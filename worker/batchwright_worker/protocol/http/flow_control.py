"""Flow control of one transport: neither side sends faster than the other takes."""

from __future__ import annotations

import asyncio


class FlowControl:
    """Whether the transport reads, and whether it takes what is written without piling it up.

    `reads` is false while requests that a client sent ahead fill the buffer: the rest waits in the socket, and TCP
    stops the client. `can_write` is false while responses that a client does not read fill the transport's buffer.
    """

    __slots__ = ("_transport", "can_write", "reads")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.reads = True
        self.can_write = True

    def pause_reading(self) -> None:
        """Leave further bytes in the socket."""
        if self.reads:
            self.reads = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes from the socket again."""
        if not self.reads:
            self.reads = True
            self._transport.resume_reading()
