"""Where units lie in the bounded memory: a ring, because units retire in the order in which they were placed (both
engines work in order; methods C, "Timing"). Pure.

`mirrored`: the memory is mapped twice in a row, so that a unit may run over the end (on a CPU, and on a GPU whose
driver can). Otherwise a unit that does not fit before the end begins at the start, and what it skips counts as used
until it retires.

A unit is placed at once (`place`), or opened and then held piece by piece (`open`, `hold`: a fluid fetch). A device
that can wait for the end of a unit by itself need not wait for the host to see it: `lend` says that the end of the
oldest unit's compute is queued, and whoever then takes its room is told behind what (`Hold.behind`).
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
    """Of units whose compute has not been queued, oldest first."""
    _lent: deque[tuple[int, object]] = field(default_factory=deque)
    """Of those before them, which have not been seen to end: their bytes, and what their end is known by."""
    _given_on: int = 0
    """Units before those whose room was given on before they were seen to end."""

    @property
    def free(self) -> int:
        """What can be held now, the room of lent units included."""
        return self.capacity - self.used + sum(size for size, _ in self._lent)

    def room(self, least: int) -> int:
        """What can be held behind as few lent units as there must be for `least` bytes; `free` where even that is
        less."""
        room = self.capacity - self.used
        for size, _ in self._lent:
            if room >= least:
                break
            room += size
        return room

    def fits(self, size: int) -> bool:
        """Could `place` place it now?"""
        return self.opens(size, size)

    def opens(self, size: int, first: int) -> bool:
        """Could a unit of `size` bytes be opened now, and its `first` bytes be held at once? The rest can then be held
        sooner or later whatever happens: what is skipped and the unit fit into the ring together."""
        skipped = self._skipped(size)
        free = self.free
        if free == self.capacity:
            return size <= self.capacity
        return skipped + first <= free and skipped + size <= self.capacity

    def place(self, size: int) -> int:
        """The offset of a new unit, all of it held. Raises ValueError if it does not fit now."""
        if not self.fits(size):
            raise ValueError(f"{size} bytes do not fit: {self.used} of {self.capacity} are used")
        offset, _ = self.open(size)
        self.hold(size)
        return offset

    def open(self, size: int) -> tuple[int, object]:
        """The offset of a new unit of which nothing is held yet, and behind what its place comes free (as `hold`)."""
        behind: object = None
        skipped = self._skipped(size)
        if self.free == self.capacity and self.used and skipped:
            # Nothing is in the ring but what is about to leave it: begin at the start, behind all of that.
            behind = self._reclaim(self.capacity)
        if not self.used:
            # An empty ring begins at its start again, so that the next unit skips nothing.
            self._head, skipped = 0, 0
        offset = (self._head + skipped) % self.capacity if size else 0
        # Skipped bytes belong to the unit: they come free with it, and the oldest unit is always the first in the ring.
        self._sizes.append(0)
        return offset, self.hold(skipped) or behind

    def hold(self, size: int) -> object:
        """Hold that many more bytes of the newest unit; what the last one to leave its room is known by, None if the
        room is free now. Raises ValueError if they do not fit now."""
        if size > self.free:
            raise ValueError(f"{size} bytes do not fit: {self.used} of {self.capacity} are used")
        behind = self._reclaim(size)
        self._sizes[-1] += size
        self._head = (self._head + size) % self.capacity if self.capacity else 0
        self.used += size
        self.peak = max(self.peak, self.used)
        return behind

    def lend(self, known_by: object) -> None:
        """The compute of the oldest unit that is not lent yet is queued: its room may be given on behind that."""
        self._lent.append((self._sizes.popleft(), known_by))

    def retire(self) -> None:
        """The oldest unit is seen to be done."""
        if self._given_on:
            self._given_on -= 1
        elif self._lent:
            self.used -= self._lent.popleft()[0]
        else:
            self.used -= self._sizes.popleft()

    def _reclaim(self, size: int) -> object:
        """Take the room of as many lent units as it needs; what the last of them is known by."""
        behind: object = None
        while self._lent and self.used + size > self.capacity:
            gone, behind = self._lent.popleft()
            self.used -= gone
            self._given_on += 1
        return behind

    def _skipped(self, size: int) -> int:
        if self.mirrored or not size or not self.used:
            return 0
        rest = self.capacity - self._head
        return rest if size > rest else 0
