"""Memory for weights in flight on a CPU: a fixed number of bytes, mapped twice in a row: every unit is contiguous.

Explicit reads fill it (`UnitReader`), so that the end of a fetch is known and no page
is read later, when a unit computes.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np

from batchwright_worker.layerwise.networks.cuts import aligned
from batchwright_worker.layerwise.networks.units import PAGE, WEIGHTS_FILE, Bytes, Unit

__all__ = ["Pool", "Reads", "ShortReadError", "UnitReader", "page_aligned"]

Reads = Literal["cached", "cold", "direct"]
"""cached: through the page cache. cold: the same, and each unit is dropped from it at once, so that every fetch comes
from the disk. direct: past the page cache (O_DIRECT), where the file system can."""
_FAILED: Final = ctypes.c_void_p(-1).value
_MAP_FIXED: Final = 0x10
_MADV_REMOVE: Final = 9


class ShortReadError(OSError):
    """The weights file is shorter than its index says."""


class Pool:
    """`capacity` bytes (a multiple of PAGE); `memory` shows them twice."""

    def __init__(self, capacity: int) -> None:
        if capacity % PAGE or capacity <= 0:
            raise ValueError(f"a pool's capacity is a positive multiple of {PAGE}, not {capacity}")
        self.capacity = capacity
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._libc = libc
        file = os.memfd_create("batchwright-weights")
        try:
            os.ftruncate(file, capacity)
            # Both windows are reserved in one piece first: nothing else can be mapped between them.
            reserve = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._base = self._map(None, 2 * capacity, 0, reserve, -1)
            both = mmap.PROT_READ | mmap.PROT_WRITE
            for place in (self._base, self._base + capacity):
                self._map(place, capacity, both, mmap.MAP_SHARED | _MAP_FIXED, file)
        finally:
            os.close(file)
        window = (ctypes.c_uint8 * (2 * capacity)).from_address(self._base)
        self.memory: Bytes = np.ctypeslib.as_array(window)

    def view(self, offset: int, size: int) -> Bytes:
        """The bytes of a unit that was placed at `offset`."""
        return self.memory[offset : offset + size]

    def forget(self) -> None:
        """Give the pages back; what they held is gone, and the next use takes new ones."""
        self._libc.madvise(ctypes.c_void_p(self._base), ctypes.c_size_t(self.capacity), _MADV_REMOVE)

    def close(self) -> None:
        """Gives the memory back. Nothing may look at it any more."""
        if self._base:
            self._libc.munmap(self._base, 2 * self.capacity)
            self._base = 0
            self.memory = np.empty(0, np.uint8)

    def _map(self, place: int | None, size: int, protection: int, flags: int, file: int) -> int:
        found = self._libc.mmap(place, size, protection, flags, file, 0)
        if found in (None, _FAILED):
            code = ctypes.get_errno()
            raise OSError(code, f"cannot map {size} bytes: {os.strerror(code)}")
        return int(found)


class UnitReader:
    """Reads the units of one prepared network. `reads`: as asked for, but for direct ones of a file system that cannot,
    which are cached."""

    def __init__(self, folder: Path, reads: Reads = "cached") -> None:
        self._path = folder / WEIGHTS_FILE
        self._file, direct = _open(self._path, direct=reads == "direct")
        self.reads: Reads = reads if direct or reads != "direct" else "cached"

    def read(self, unit: Unit, into: Bytes, start: int = 0, stop: int | None = None) -> None:
        """Fill `into` with the unit's bytes, or [start, stop) of it (whole pages) with those; returns when they are
        there. Raises ShortReadError, OSError."""
        done, stop = start, unit.size if stop is None else stop
        while done < stop:
            count = os.preadv(self._file, [into[done:stop].data], unit.offset + done)
            if count <= 0:
                raise ShortReadError(f"{self._path} ends before byte {unit.offset + unit.size}")
            done += count
        if self.reads == "cold" and stop == unit.size and stop:
            os.posix_fadvise(self._file, unit.offset, unit.size, os.POSIX_FADV_DONTNEED)

    def forget(self) -> None:
        """Drop the whole file from the page cache (what is dirty is written first)."""
        os.fsync(self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        os.close(self._file)


def _open(path: Path, *, direct: bool) -> tuple[int, bool]:
    """The file, and whether it is read past the page cache."""
    if direct:
        with contextlib.suppress(OSError):  # not every file system can
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT), True
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False


def page_aligned(size: int) -> Bytes:
    """New memory for weights that stay: page-aligned, as direct reads need it."""
    if not size:
        return np.empty(0, np.uint8)
    return np.frombuffer(mmap.mmap(-1, aligned(size, PAGE)), np.uint8)[:size]


def read_all(reader: UnitReader, units: Sequence[Unit]) -> list[Bytes]:
    """Units in memory of their own, which the pool never reuses."""
    memories = []
    for unit in units:
        memory = page_aligned(unit.size)
        reader.read(unit, memory)
        memories.append(memory)
    return memories
