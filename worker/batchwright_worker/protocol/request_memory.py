"""The memory that requests hold in this process, counted against a budget: bodies from their announcement to their
response, receive buffers, responses that their clients do not read. Pure.

What does not fit is refused before it is received: a process that takes everything is killed with all that waits in it.
"""

from __future__ import annotations

from typing import Final

from batchwright_worker.inference.errors import QueueFull

RETRY_S: Final = 1.0
"""Bodies leave within a few batches where anything is served at all."""
RECEIVING_SHARE: Final = 0.5
"""Bodies that are still arriving may hold this much: slow senders must not keep out those who are served quickly."""
UNBOUNDED: Final = 1 << 60


class HeldBytes:
    """Bytes that are held from the beginning until `release`, which may come more than once."""

    __slots__ = ("_memory", "_size")

    def __init__(self, memory: RequestMemory, size: int) -> None:
        """Raises QueueFull."""
        memory.hold(size)
        self._memory, self._size = memory, size

    def release(self) -> None:
        """They are free again."""
        self._memory.release(self._size)
        self._size = 0


class RequestMemory:
    """One per process. `held_bytes` of at most `limit_bytes` are held, `receiving_bytes` of these by bodies that have
    not arrived yet; `refused` counts the requests that did not fit."""

    __slots__ = ("held_bytes", "limit_bytes", "receiving_bytes", "receiving_limit", "refused")

    def __init__(self, limit_bytes: int = UNBOUNDED) -> None:
        self.limit_bytes = limit_bytes
        self.receiving_limit = int(limit_bytes * RECEIVING_SHARE)
        self.held_bytes = 0
        self.receiving_bytes = 0
        self.refused = 0

    def announce(self, size: int) -> None:
        """A body of `size` bytes is going to arrive. Raises QueueFull where it does not fit; one body alone always may
        arrive, however large its share is."""
        if self.receiving_bytes and self.receiving_bytes + size > self.receiving_limit:
            raise self._full(size, "that arrive at the same time", self.receiving_bytes, self.receiving_limit)
        self.hold(size)
        self.receiving_bytes += size

    def arrived(self, size: int) -> None:
        """An announced body is there, or will not come: its bytes are held until `release`."""
        self.receiving_bytes -= size

    def hold(self, size: int) -> None:
        """Hold `size` bytes more. Raises QueueFull where they do not fit."""
        if self.held_bytes + size > self.limit_bytes:
            raise self._full(size, "held here", self.held_bytes, self.limit_bytes)
        self.held_bytes += size

    def must_hold(self, size: int) -> None:
        """Hold bytes that are there already, whatever the budget says: later requests find less room."""
        self.held_bytes += size

    def release(self, size: int) -> None:
        """They are free again."""
        self.held_bytes -= size

    def check(self) -> None:
        """Raises QueueFull while more is held than the budget allows."""
        if self.held_bytes > self.limit_bytes:
            raise self._full(0, "held here", self.held_bytes, self.limit_bytes)

    def _full(self, size: int, which: str, bytes_now: int, limit: int) -> QueueFull:
        self.refused += 1
        return QueueFull(
            f"the bodies of requests {which} have {bytes_now} bytes and {size} more do not fit: "
            f"requestMemoryBytes allows {limit}",
            retry_after_s=RETRY_S,
        )
