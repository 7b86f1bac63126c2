"""Shared memory slots: files in a memory-backed folder that both processes map.

The sidecar owns a slot except between a Run and its response. File blocks are allocated before they are mapped, so
that a full folder is an error (SlotsFullError) and never a SIGBUS.
"""

from __future__ import annotations

import mmap
import os
import shutil
from pathlib import Path
from typing import Final

ALIGNMENT: Final = 64
_SMALLEST_BYTES: Final = 1 << 16


class SlotsFullError(Exception):
    """No shared memory left for a batch of this size."""


def aligned(offset: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


class Slot:
    """One mapped file; `view` is valid until the slot grows or closes."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.name = path.name
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            self._map = self._mapped(max(size, os.fstat(self._file).st_size))
        except BaseException:
            os.close(self._file)
            raise

    @property
    def size(self) -> int:
        """Bytes that are mapped."""
        return len(self._map)

    @property
    def view(self) -> memoryview:
        """All bytes, writable."""
        return memoryview(self._map)

    def grow(self, size: int) -> None:
        """At least `size` bytes, contents kept. Raises SlotsFullError. Old views keep the old mapping alive."""
        if size > len(self._map):
            self._map = self._mapped(max(size, os.fstat(self._file).st_size))

    def close(self, *, unlink: bool) -> None:
        """Close the file (its mapping goes with the last view of it); with unlink remove it."""
        os.close(self._file)
        if unlink:
            self.path.unlink(missing_ok=True)

    def _mapped(self, size: int) -> mmap.mmap:
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            os.posix_fallocate(self._file, 0, size)
            return mmap.mmap(self._file, size)
        except OSError as error:
            raise SlotsFullError(
                f"{size} bytes of shared memory for {self.path.name}: {error.strerror}; "
                f"enlarge the volume of {self.path.parent.parent} or lower batching.maxSize"
            ) from error


class SlotPool:
    """The sidecar's slots of one runtime: reused, at most `limit_bytes` in all."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self._limit = limit_bytes
        self._free: list[Slot] = []
        self._count = 0
        self._bytes = 0
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o770)

    def acquire(self, size: int) -> Slot:
        """A slot of at least `size` bytes: the smallest free one that fits, else the largest one grown, else a new
        one. Raises SlotsFullError."""
        fitting = [slot for slot in self._free if slot.size >= size]
        if fitting:
            slot = min(fitting, key=lambda candidate: candidate.size)
            self._free.remove(slot)
            return slot
        if self._free:
            return self._grown(max(self._free, key=lambda candidate: candidate.size), size)
        return self._created(max(size, _SMALLEST_BYTES))

    def release(self, slot: Slot) -> None:
        """Return a slot to the pool; its views must not be used any more."""
        self._free.append(slot)

    def adopt_growth(self, slot: Slot, size: int) -> None:
        """The runtime has made the file larger: map all of it."""
        before = slot.size
        slot.grow(size)
        self._bytes += slot.size - before

    def discard(self, slot: Slot) -> None:
        """Drop a slot that a dead runtime may still have been writing to."""
        self._bytes -= slot.size
        slot.close(unlink=True)

    def close(self) -> None:
        """Remove every file."""
        for slot in self._free:
            slot.close(unlink=True)
        self._free.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _grown(self, slot: Slot, size: int) -> Slot:
        self._check(size - slot.size)
        self._free.remove(slot)
        try:
            self.adopt_growth(slot, size)
        except SlotsFullError:
            self._free.append(slot)
            raise
        return slot

    def _created(self, size: int) -> Slot:
        self._check(size)
        self._count += 1
        slot = Slot(self.folder / f"slot-{self._count}", size)
        self._bytes += slot.size
        return slot

    def _check(self, more: int) -> None:
        if self._bytes + more > self._limit:
            raise SlotsFullError(
                f"{more} more bytes of shared memory would exceed the limit of {self._limit} bytes; "
                "lower batching.maxSize or enlarge the ipc volume"
            )


class SlotCache:
    """The runtime's slots: files mapped once and kept for as long as the session lasts."""

    def __init__(self) -> None:
        self._folder = Path()
        self._slots: dict[str, Slot] = {}

    def enter(self, folder: Path) -> None:
        """Begin a new session: close the old one's slots."""
        for slot in self._slots.values():
            slot.close(unlink=False)
        self._slots.clear()
        self._folder = folder

    def get(self, name: str, size: int) -> Slot:
        """The slot of this name with at least `size` bytes mapped. A name is one path element."""
        if "/" in name or name.startswith("."):
            raise ValueError(f"{name!r} is no slot name")
        slot = self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = Slot(self._folder / name, size)
        slot.grow(size)
        return slot
