"""A prepared folder is filled beside its place and put there whole: processes that share a cache may prepare the same
network at once, and one that is killed meanwhile leaves nothing that others take for complete, or that stays.

Who runs a network holds its folder, so that nobody removes it for others (`prepared_cache`); the hold ends with the
process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batchwright_worker.file_locks import Flock, shared_lock, taken
from batchwright_worker.layerwise.networks.prepared_cache import (
    HELD_FILE,
    PREPARING_FILE,
    beside,
    make_room,
    remove_left_behind,
)
from batchwright_worker.layerwise.networks.units import UnitIndex, read_index

__all__ = ["HeldFolder", "prepared"]

_TRIES: Final = 8
"""To hold what is there: others may remove it between a look and the hold."""


@dataclass(slots=True)
class HeldFolder:
    """A complete folder that nobody removes until it is released."""

    index: UnitIndex
    _hold: Flock | None = None
    """None where the folder cannot be written: then nobody can remove it either."""

    def release(self) -> None:
        """It is used no more."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()


def prepared(folder: Path, fill: Callable[[Path], UnitIndex], coming_bytes: int = 0) -> HeldFolder:
    """This folder. Where there is none, `fill` prepares it in another place (it may raise), for which room is made of
    `coming_bytes`; if somebody else was faster, theirs stays, which they may read already."""
    if (known := _held(folder)) is not None:
        return known
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_left_behind(folder.parent)
    make_room(folder.parent, coming_bytes)
    place, lock = _own_place(folder)
    try:
        index = fill(place)
        hold = _hold_of(place)
        if _put(place, folder):
            return HeldFolder(index, hold)
        if hold is not None:
            hold.release()
    finally:
        (folder / PREPARING_FILE).unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        lock.release()
        make_room(folder.parent)
    return _held(folder) or prepared(folder, fill, coming_bytes)


def _held(folder: Path) -> HeldFolder | None:
    """The complete folder that is there, held; None if there is none."""
    for _ in range(_TRIES):
        if read_index(folder) is None:
            return None
        hold = _hold_of(folder)
        if (index := read_index(folder)) is not None:
            if hold is not None:
                with contextlib.suppress(OSError):
                    os.utime(folder / HELD_FILE)  # the least recently used one goes first
            return HeldFolder(index, hold)
        if hold is not None:
            hold.release()
    return None


def _hold_of(folder: Path) -> Flock | None:
    with contextlib.suppress(OSError):  # it cannot be written, or has just been removed
        if (hold := taken(folder / HELD_FILE, shared=True, create=True)) is not None:
            return hold
        return shared_lock(folder / HELD_FILE)
    return None


def _own_place(folder: Path) -> tuple[Path, Flock]:
    while True:
        place = beside(folder)
        place.mkdir()
        # Before the lock is held, another process may take the place for left behind.
        with contextlib.suppress(FileNotFoundError):
            if (lock := taken(place / PREPARING_FILE, create=True)) is not None:
                return place, lock


def _put(place: Path, folder: Path) -> bool:
    """Let it be the folder; false if there is one already."""
    while True:
        try:
            place.rename(folder)
        except OSError:
            if read_index(folder) is not None:
                return False
            if not folder.is_dir():
                raise
        else:
            return True
        # An incomplete one: files of it were removed, or an older version was killed as it wrote them.
        aside = beside(folder)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
