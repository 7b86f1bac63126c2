"""How many bytes the cache may have, and which entries go for others: the least recently used that nobody uses."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

from batchwright_worker.fetch.cache.counters import counted
from batchwright_worker.fetch.cache.layout import Layout, replace_text, written_bytes
from batchwright_worker.fetch.errors import NotCached
from batchwright_worker.file_locks import Flock, briefly, taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`max_bytes` of all entries and of what is being fetched; `keep_free` is the share of the file system, in [0, 1),
    that is left free; for `grace_s` after its last use an entry stays, until its pod's containers hold it."""

    max_bytes: int
    keep_free: float = 0.1
    grace_s: float = 600.0


@dataclass(slots=True)
class _Removable:
    """What would go: whole entries and broken-off fetches, whose locks are held meanwhile."""

    freed: int = 0
    entries: dict[str, int] = field(default_factory=dict)
    prefixes: list[str] = field(default_factory=list)
    locks: list[Flock] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Room:
    """Of one cache."""

    layout: Layout
    bounds: Bounds

    def reserve(self, prefix: str, total_bytes: int) -> None:
        """The artifact that is being fetched as `prefix` may have so many bytes from now on; entries are evicted for
        it. Nothing is evicted if that would not suffice. Raises NotCached, OSError."""
        if total_bytes > self.bounds.max_bytes:
            raise NotCached(f"it has at least {total_bytes} bytes, all of the cache {self.bounds.max_bytes}")
        with briefly(self.layout.lock):
            if total_bytes <= self.layout.reserved_bytes(prefix):
                return
            short = self._short_bytes(prefix, total_bytes)
            if short > 0:
                self._evict(prefix, short)
            replace_text(self.layout.reserved_file(prefix), str(total_bytes).encode())
        self.layout.empty_trash()

    def _short_bytes(self, prefix: str, total_bytes: int) -> int:
        """How many bytes are missing, by the cache's bound and by what the file system has free."""
        layout, coming = self.layout, {each: self.layout.reserved_bytes(each) for each in self.layout.prefixes()}
        coming[prefix] = total_bytes
        entries = (layout.read(key) for key in layout.entry_keys())
        held = sum(entry.total_bytes for entry in entries if entry is not None)
        by_bound = held + sum(coming.values()) - self.bounds.max_bytes
        disk = os.statvfs(layout.root)
        missing = sum(max(0, size - written_bytes(layout.staging(each))) for each, size in coming.items())
        by_disk = missing + int(disk.f_blocks * disk.f_frsize * self.bounds.keep_free) - disk.f_bavail * disk.f_frsize
        return max(by_bound, by_disk)

    def _evict(self, prefix: str, short: int) -> None:
        """So many bytes at least. Raises NotCached, and then all stays."""
        removable = _Removable()
        try:
            self._gather(removable, prefix, short)
            if removable.freed < short:
                raise NotCached(f"the cache or its disk is full of what is in use: {short} bytes are missing")
            for name in removable.prefixes:
                self.layout.discard(self.layout.staging(name))
                self.layout.fetch_lock(name).unlink(missing_ok=True)
            for key in removable.entries:
                self.layout.discard(self.layout.entry(key))
            if removable.entries:
                evicted = {"evictions": len(removable.entries), "evicted_bytes": sum(removable.entries.values())}
                counted(self.layout, self.bounds.max_bytes, **evicted)
        finally:
            for lock in removable.locks:
                lock.release()

    def _gather(self, removable: _Removable, prefix: str, short: int) -> None:
        """Broken-off fetches first, then entries from the least recently used on, until they suffice."""
        layout = self.layout
        for name in layout.prefixes():
            if name != prefix and (lock := taken(layout.fetch_lock(name), create=True)) is not None:
                removable.locks.append(lock)
                removable.prefixes.append(name)
                removable.freed += layout.reserved_bytes(name)
        now = time.time()
        for key in sorted(layout.entry_keys(), key=layout.last_used_at):
            if removable.freed >= short:
                return
            entry = layout.read(key)
            if entry is None:
                layout.discard(layout.entry(key))  # nothing that could be used
            elif now - layout.last_used_at(key) >= self.bounds.grace_s:
                self._gather_entry(removable, key, entry.total_bytes)

    def _gather_entry(self, removable: _Removable, key: str, size: int) -> None:
        path = self.layout.entry_file(key)
        try:
            lock = taken(path)
            if lock is None:
                os.utime(path)  # it is in use now, which it may not be when somebody looks again
        except PermissionError:
            return  # of a pod that runs as another user and group: its own kind evicts it
        if lock is None:
            return
        removable.locks.append(lock)
        removable.entries[key] = size
        removable.freed += size
