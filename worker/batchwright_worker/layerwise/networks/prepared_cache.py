"""The folder that prepared networks lie in, bounded: the least recently used that nobody holds goes for others.

What is held is needed whatever the bound says: only that it is exceeded is told. An entry is a folder whose name is a
digest; nothing else in there is touched but what a killed process has left behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batchwright_worker.backends.base import LoadError
from batchwright_worker.file_locks import Flock, taken

__all__ = [
    "ENV_BYTES",
    "HELD_FILE",
    "PREPARING_FILE",
    "PROBE_PREFIX",
    "beside",
    "make_room",
    "most_bytes",
    "remove_left_behind",
]

_LOG = logging.getLogger(__name__)
ENV_BYTES: Final = "BATCHWRIGHT_CACHE_DIR_BYTES"
HELD_FILE: Final = "held"
"""In an entry: held, shared, by those who run it. When it was written last is when the entry was used last."""
PREPARING_FILE: Final = "preparing"
"""In a place that is being filled: one that nobody holds was left behind by a process that has died."""
PROBE_PREFIX: Final = "batchwright-fetch-"
"""Of folders that fetches are measured in."""
_MOST_BYTES: Final = 50 << 30
_KEPT_FREE: Final = 0.1
"""Of the file system, when something new comes."""
_GRACE_S: Final = 60.0
"""For so long after its last use an entry stays: that of a process which is being started anew."""
_LEFT_S: Final = 3600.0
"""What has no lock is left behind after so long."""
_DIGEST: Final = re.compile(r"[0-9a-f]{32}")
_BESIDE: Final = re.compile(r"[0-9a-f]{32}\.[0-9]+-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class _CachedFolder:
    path: Path
    size: int
    used_at: float


def most_bytes() -> int:
    """Of all entries together, as the environment says it. Raises LoadError for what is no number of bytes."""
    text = os.environ.get(ENV_BYTES, "")
    if not text:
        return _MOST_BYTES
    if not text.isdecimal():
        raise LoadError(f"{ENV_BYTES} is a number of bytes, not {text!r}")
    return int(text)


def make_room(cache: Path, coming_bytes: int = 0) -> None:
    """Remove entries until so many bytes may come, by the bound and by what the file system has free."""
    most, entries = most_bytes(), sorted(_entries(cache), key=lambda entry: entry.used_at)
    over = sum(entry.size for entry in entries) + coming_bytes - most
    if coming_bytes:
        disk = os.statvfs(cache)
        free = disk.f_bavail * disk.f_frsize - int(disk.f_blocks * disk.f_frsize * _KEPT_FREE)
        over = max(over, coming_bytes - free)
    for entry in entries:
        if over <= 0:
            return
        if time.time() - entry.used_at >= _GRACE_S and _removed(entry.path):
            _LOG.info("%s: %d bytes that were not used for long are removed", entry.path, entry.size)
            over -= entry.size
    if over > 0 and not coming_bytes:
        _LOG.info("%s: what is in use, or was a minute ago, is %d bytes more than %s=%d", cache, over, ENV_BYTES, most)


def beside(folder: Path) -> Path:
    """A new name next to it."""
    return folder.with_name(f"{folder.name}.{os.getpid()}-{secrets.token_hex(4)}")


def remove_left_behind(cache: Path) -> None:
    """What processes that have died were filling, removing or measuring with."""
    for left in cache.iterdir():
        if _BESIDE.fullmatch(left.name) or left.name.startswith(PROBE_PREFIX):
            with _nobodys(left) as found:
                if found:
                    shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _nobodys(left: Path) -> Iterator[bool]:
    """Does nobody work on it? The lock, where it has one, is held meanwhile."""
    lock: Flock | None = None
    found = False
    with contextlib.suppress(OSError):  # it has just been made, put into its place or removed
        locks = [left / name for name in (PREPARING_FILE, HELD_FILE) if (left / name).exists()]
        lock = taken(locks[0]) if locks else None
        found = lock is not None if locks else time.time() - left.stat().st_mtime > _LEFT_S
    try:
        yield found
    finally:
        if lock is not None:
            lock.release()


def _entries(cache: Path) -> Iterator[_CachedFolder]:
    for path in cache.iterdir():
        if _DIGEST.fullmatch(path.name) is None:
            continue
        with contextlib.suppress(OSError):  # somebody else has just removed it
            held = path / HELD_FILE
            used_at = (held if held.exists() else path).stat().st_mtime
            yield _CachedFolder(path, sum(file.stat().st_size for file in path.iterdir()), used_at)


def _removed(path: Path) -> bool:
    """Removes an entry unless somebody holds it; was it removed?"""
    try:
        lock = taken(path / HELD_FILE, create=True)
    except OSError:  # another user's, or gone
        return False
    if lock is None:
        return False
    try:
        aside = beside(path)
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError:
        return False
    finally:
        lock.release()
    return True
