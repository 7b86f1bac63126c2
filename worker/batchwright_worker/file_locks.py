"""Locks on files that end with the process that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MODE = 0o664


@dataclass(frozen=True, slots=True)
class Flock:
    """A lock that is held until `release`, or until the process ends."""

    descriptor: int

    def release(self) -> None:
        """Lets go of it."""
        os.close(self.descriptor)


def taken(path: Path, *, shared: bool = False, create: bool = False) -> Flock | None:
    """The lock on the file that is at this path now, None if others have it. Raises OSError, also for a file that is
    not there. A shared one can be had where the file system is mounted read-only."""
    flags = (os.O_RDONLY if shared else os.O_RDWR) | (os.O_CREAT if create else 0)
    while True:
        descriptor = os.open(path, flags | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        if _is_at(path, descriptor):
            return Flock(descriptor)
        os.close(descriptor)  # it was replaced or removed before the lock was taken


def shared_lock(path: Path) -> Flock:
    """As `taken`; waits for those who hold it alone, which evictions do for moments. Raises OSError."""
    while (lock := taken(path, shared=True)) is None:
        time.sleep(0.01)
    return lock


@contextlib.contextmanager
def briefly(path: Path) -> Iterator[None]:
    """The only one in here; waits for others, who must not be long. The file is never removed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        found, held = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (found.st_ino, found.st_dev) == (held.st_ino, held.st_dev)
