"""Where units lie in the bounded memory: a ring, because units retire in the order in which they were placed (both
engines work in order; methods C, "Timing"). Pure.

`mirrored`: the memory is mapped twice in a row, so that a unit may run over the end (on a CPU). Otherwise a unit that
does not fit before the end begins at the start, and what it skips counts as used until it retires (on a GPU).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

__all__ = ["Ring"]


@dataclass(slots=True)
class Ring:
    """`used` bytes never exceed `capacity`; `peak` is their highest point."""

    capacity: int
    mirrored: bool = True
    used: int = 0
    peak: int = 0
    _head: int = 0
    _sizes: deque[int] = field(default_factory=deque)

    def fits(self, size: int) -> bool:
        """Could `place` place it now?"""
        return self.used + size + self._skipped(size) <= self.capacity

    def place(self, size: int) -> int:
        """The offset of a new unit. Raises ValueError if it does not fit now."""
        if not self.fits(size):
            raise ValueError(f"{size} bytes do not fit: {self.used} of {self.capacity} are used")
        skipped = self._skipped(size)
        offset = (self._head + skipped) % self.capacity if size else 0
        self._head = (self._head + skipped + size) % self.capacity if self.capacity else 0
        # Skipped bytes belong to the unit: they come free with it, and the oldest unit is always the first in the ring.
        self._sizes.append(skipped + size)
        self.used += skipped + size
        self.peak = max(self.peak, self.used)
        return offset

    def retire(self) -> None:
        """The oldest unit is done."""
        self.used -= self._sizes.popleft()
        if not self.used:
            # An empty ring begins at its start again, so that the next unit skips nothing.
            self._head = 0

    def _skipped(self, size: int) -> int:
        if self.mirrored or not size:
            return 0
        rest = self.capacity - self._head
        return rest if size > rest else 0
