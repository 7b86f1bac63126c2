"""Temporary folders that are named after their process, so that what a killed one left is removed by the next."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from batchwright_worker.file_locks import Flock, taken

_PREFIX: Final = "bw-"
_SOCKET_NAME: Final = 108 - len("/pymp-xxxxxxxx/listener-xxxxxxxx") - 1
"""The longest folder in which multiprocessing can make its sockets."""
_LOCK: Final = ".lock"
_HELD: Final[list[Flock]] = []
"""Until this process ends."""
_JUST_NOW_S: Final = 60.0
_SHORT: Final = (Path("/tmp"), Path("/dev/shm"))  # noqa: S108 - the folder below is made by mkdtemp
"""Where the folder for temporary files is too long for a socket's name."""


def own_folder(root: Path, prefix: str) -> Path:
    """A new folder below `root`, which this process holds; those of dead processes are removed."""
    for old in root.glob(f"{prefix}*-*"):
        if _is_left(old, old.name.removeprefix(prefix).split("-")[0]):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=root))
    with contextlib.suppress(OSError):  # where a file system has no locks, its process alone tells
        if (lock := taken(folder / _LOCK, create=True)) is not None:
            _HELD.append(lock)
    return folder


def _is_left(folder: Path, pid: str) -> bool:
    """Is its process gone? A process of another container is none of this one's, and may share the folder's place: it
    holds the lock."""
    if not pid.isdigit() or Path(f"/proc/{pid}").exists():
        return False
    try:
        lock = taken(folder / _LOCK)
    except FileNotFoundError:  # made just now, or by an older version
        with contextlib.suppress(OSError):
            return time.time() - folder.stat().st_mtime > _JUST_NOW_S
        return False
    except OSError:
        return False
    if lock is not None:
        lock.release()
    return lock is not None


@contextlib.contextmanager
def own_temporary_files() -> Iterator[None]:
    """All temporary files of a command, those of libraries too, lie in a folder of its own, which is removed when the
    process ends. Where it is not this process's only business nothing is changed."""
    if "multiprocessing.util" in sys.modules:  # it removes its own at the end of the process, and must find them
        yield
        return
    before, folder = tempfile.tempdir, own_folder(_root(Path(tempfile.gettempdir())), _PREFIX)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _root(given: Path) -> Path:
    """`given`, or a writable one that is short enough."""
    longest = _SOCKET_NAME - len(f"/{_PREFIX}{os.getpid()}-xxxxxxxx")
    roots = [root for root in (given, *_SHORT) if len(os.fsencode(root)) <= longest and os.access(root, os.W_OK)]
    return roots[0] if roots else given
