"""Receive buffers that connections share: one is lent while bytes of a request are in it, none to an idle client."""

from __future__ import annotations

from typing import Final

from batchwright_worker.protocol.request_memory import RequestMemory

BUFFER_BYTES: Final = 1 << 16
"""Requests of a few rows fit many times."""
_KEPT: Final = 64
"""Buffers kept for the next arrivals: as many as are filled and emptied within one round of the event loop or two."""


class ReceiveBuffers:
    """The buffers of one port, each of `size` bytes. Those that are lent count as `memory` that is held."""

    __slots__ = ("_free", "memory", "scratch", "size")

    def __init__(self, memory: RequestMemory, least_bytes: int = 0) -> None:
        self.memory = memory
        self.size = max(BUFFER_BYTES, least_bytes)
        self.scratch = memoryview(bytearray(BUFFER_BYTES))
        """Where bytes go that nobody will look at."""
        self._free: list[memoryview] = []

    def lend(self) -> memoryview:
        """A buffer, to be given back by `take_back` or `forget`."""
        self.memory.held_bytes += self.size
        free = self._free
        return free.pop() if free else memoryview(bytearray(self.size))

    def take_back(self, buffer: memoryview) -> None:
        """Nothing looks at its bytes any more."""
        self.memory.held_bytes -= self.size
        if len(self._free) < _KEPT:
            self._free.append(buffer)

    def forget(self) -> None:
        """A lent buffer is not used any more, but something may still look at its bytes: nobody gets it next."""
        self.memory.held_bytes -= self.size
