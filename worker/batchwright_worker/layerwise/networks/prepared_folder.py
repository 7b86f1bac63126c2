"""A prepared folder is filled beside its place and put there whole: processes that share a cache may prepare the same
network at once, and one that is killed meanwhile leaves nothing that others take for complete, or that stays."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from batchwright_worker.file_locks import Flock, taken
from batchwright_worker.layerwise.networks.units import UnitIndex, read_index

__all__ = ["prepared"]

_LOCK: Final = "preparing"
"""Held while a folder is filled: one that nobody holds was left behind by a process that has died."""


def prepared(folder: Path, fill: Callable[[Path], UnitIndex]) -> UnitIndex:
    """The index of this folder. Where there is none, `fill` prepares it in another place (it may raise); if somebody
    else was faster, theirs stays, which they may read already."""
    if (known := read_index(folder)) is not None:
        return known
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(folder)
    place, lock = _own_place(folder)
    try:
        index = fill(place)
        return _put(place, folder) or index
    finally:
        (folder / _LOCK).unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        lock.release()


def _own_place(folder: Path) -> tuple[Path, Flock]:
    while True:
        place = _beside(folder)
        place.mkdir()
        # Before the lock is held, another process may take the place for left behind.
        with contextlib.suppress(FileNotFoundError):
            if (lock := taken(place / _LOCK, create=True)) is not None:
                return place, lock


def _put(place: Path, folder: Path) -> UnitIndex | None:
    """Let it be the folder; the index of the one that is there already, None if there was none."""
    while True:
        try:
            place.rename(folder)
        except OSError:
            if (index := read_index(folder)) is not None:
                return index
            if not folder.is_dir():
                raise
        else:
            return None
        # An incomplete one, as older versions left it when they were killed.
        aside = _beside(folder)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{os.getpid()}-{secrets.token_hex(4)}")


def _remove_left_behind(folder: Path) -> None:
    for left in folder.parent.glob(f"{folder.name}.*"):
        try:
            lock = taken(left / _LOCK)
        except OSError:  # it has just been made, or put into its place
            continue
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            lock.release()
