"""The cache at work: an artifact is there and whole, or is fetched by one process for all, and is held while in use."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec

from batchwright_worker.api.uris import is_folder_uri
from batchwright_worker.artifacts.digest import file_sha256
from batchwright_worker.fetch.artifact import FetchedArtifact, WantedArtifact, fetch_artifact
from batchwright_worker.fetch.cache.counters import counted
from batchwright_worker.fetch.cache.identity import is_current, prefix_of, suffix_of
from batchwright_worker.fetch.cache.layout import CONTENT, ENTRY_FILE, CachedFile, Entry, Layout, replace_text
from batchwright_worker.fetch.cache.room import Bounds, Room
from batchwright_worker.fetch.cache.verification import damage_of
from batchwright_worker.fetch.download import attempts
from batchwright_worker.fetch.errors import FetchRefused, Interrupted, NoSpace, NotCached
from batchwright_worker.fetch.source import RemoteFile, Store
from batchwright_worker.file_locks import Flock, briefly, shared_lock, taken

_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedArtifact:
    """`path` is the artifact in the cache, which stays for as long as this process lives; `is_hit`: nothing was
    fetched for it."""

    path: Path
    files: int
    total_bytes: int
    is_hit: bool


@dataclass(slots=True)
class WeightsCache:
    """One folder, shared by any number of processes. `may_be_old`: where a store does not answer, the newest entry of
    an address serves."""

    root: Path
    bounds: Bounds
    say: Callable[[str], None]
    may_be_old: bool = False
    base_wait_s: float = 1.0
    _held: list[Flock] = field(default_factory=list)

    async def bring_if_possible(self, wanted: WantedArtifact, store: Store, origin: str = "") -> CachedArtifact | None:
        """As `bring`; None, and said, where the artifact has to be fetched past the cache."""
        try:
            return await self.bring(wanted, store, origin)
        except NotCached as why:
            self.say(f"{wanted.uri}: past the cache: {why}")
            with contextlib.suppress(OSError):
                self._count(Layout(self.root), uncached=1)
            return None

    async def bring(self, wanted: WantedArtifact, store: Store, origin: str = "") -> CachedArtifact:
        """The artifact, from the cache or fetched into it. `wanted.target` says what it is called. Raises NotCached
        where it has to be fetched past the cache, FetchRefused, Interrupted."""
        layout = Layout(self.root)
        try:
            layout.make()
            prefix = await self._prefix(wanted, store, origin)
            found = await self._found(layout, prefix, wanted, store)
            if found is None:
                async with self._fetching(layout, prefix, wanted.uri):
                    found = await self._found(layout, prefix, wanted, store)  # somebody may have fetched it meanwhile
                    found = found or await self._fetched(layout, prefix, wanted, store, origin)
        except Interrupted as error:
            if self.may_be_old and (found := await self._newest(layout, wanted, origin)) is not None:
                self.say(f"{wanted.uri}: {error}; the copy that was fetched last is used")
                return found
            raise
        except (OSError, NoSpace) as error:
            raise NotCached(f"{self.root}: {error}") from error
        return found

    def release(self) -> None:
        """Nothing is held by this process any more."""
        while self._held:
            self._held.pop().release()

    async def _prefix(self, wanted: WantedArtifact, store: Store, origin: str) -> str:
        if self.may_be_old:
            return await prefix_of(wanted, store, origin)
        prefix = ""
        async for attempt in attempts(self.say, self.base_wait_s):
            with attempt:
                prefix = await prefix_of(wanted, store, origin)
        return prefix

    async def _newest(self, layout: Layout, wanted: WantedArtifact, origin: str) -> CachedArtifact | None:
        """Of this address, whatever its version."""
        for key in sorted(layout.entry_keys(), key=layout.last_used_at, reverse=True):
            entry = layout.read(key)
            if entry is None or (entry.uri, entry.origin, entry.name) != (wanted.uri, origin, wanted.target.name):
                continue
            if wanted.sha256 and not key.startswith(f"{wanted.sha256}-"):
                continue
            if await self._hold(layout, key) and not await asyncio.to_thread(damage_of, layout.content(key), entry):
                return _cached(layout, key, entry, is_hit=True)
        return None

    async def _found(self, layout: Layout, prefix: str, wanted: WantedArtifact, store: Store) -> CachedArtifact | None:
        """The entry of this artifact, held and verified; None if there is none that is whole."""
        for key in [each for each in layout.entry_keys() if each.startswith(f"{prefix}-")]:
            entry = layout.read(key)
            if entry is None or entry.name != wanted.target.name or not await is_current(entry, wanted, store):
                continue
            if not await self._hold(layout, key):
                continue
            fault = await asyncio.to_thread(damage_of, layout.content(key), entry)
            if not fault:
                self._count(layout, hits=1, hit_bytes=entry.total_bytes)
                with contextlib.suppress(PermissionError):  # of a pod of another user and group, who may read it
                    os.utime(layout.entry_file(key))
                return _cached(layout, key, entry, is_hit=True)
            self.say(f"{wanted.uri}: the cache's copy is damaged ({fault}): it is fetched anew")
        return None

    async def _hold(self, layout: Layout, key: str) -> bool:
        """Nobody evicts it from now on. False: somebody just has."""
        try:
            lock = await asyncio.to_thread(shared_lock, layout.entry_file(key))
        except FileNotFoundError:
            return False
        self._held.append(lock)
        return True

    @contextlib.asynccontextmanager
    async def _fetching(self, layout: Layout, prefix: str, uri: str) -> AsyncIterator[None]:
        """The only process that fetches this."""
        lock, waited = taken(layout.fetch_lock(prefix), create=True), False
        while lock is None:
            if not waited:
                self.say(f"{uri}: another process fetches it already; waiting for that")
            waited = True
            await asyncio.sleep(_POLL_S)
            lock = taken(layout.fetch_lock(prefix), create=True)
        try:
            yield
            layout.fetch_lock(prefix).unlink(missing_ok=True)  # those who wait see that it is another file
        finally:
            lock.release()

    async def _fetched(
        self, layout: Layout, prefix: str, wanted: WantedArtifact, store: Store, origin: str
    ) -> CachedArtifact:
        """Fetches into the staging folder, where a fetch that broke off is resumed, and makes it an entry."""
        staging, room = layout.staging(prefix), Room(layout, self.bounds)
        staging.mkdir(exist_ok=True)
        content = staging / CONTENT
        shutil.rmtree(content, ignore_errors=True)  # whole, but of an unknown version: its process ended in between
        target = content / wanted.target.name
        try:
            fetched = await fetch_artifact(
                replace(wanted, target=target),
                store,
                self.say,
                base_wait_s=self.base_wait_s,
                on_growth=lambda total: room.reserve(prefix, total),
            )
            entry = await asyncio.to_thread(_entry_of, wanted, fetched, content, origin)
            suffix = await _checked_suffix(prefix, wanted, fetched, store, origin)
        except FetchRefused:  # nothing that another process could go on with
            layout.discard(staging)
            layout.empty_trash()
            raise
        key = f"{prefix}-{suffix}"
        self._publish(layout, prefix, key, entry)
        if not await self._hold(layout, key):
            raise NotCached("it was evicted at once")
        return _cached(layout, key, entry, is_hit=False)

    def _publish(self, layout: Layout, prefix: str, key: str, entry: Entry) -> None:
        """The staging folder becomes the entry. One that is there already is damaged: its files are replaced one by
        one, because others may use it under its name."""
        staging, text = layout.staging(prefix), msgspec.json.encode(entry)
        with briefly(layout.lock):
            if (known := layout.read(key)) is None:
                layout.discard(layout.entry(key))
                layout.reserved_file(prefix).unlink(missing_ok=True)
                replace_text(staging / ENTRY_FILE, text)
                staging.rename(layout.entry(key))
            else:
                _repair(staging / CONTENT, layout.content(key), entry)
                _write_in_place(layout.entry_file(key), text)
                layout.discard(staging)
            more = {"fetches": 1, "fetched_bytes": entry.total_bytes, "damaged": int(known is not None)}
            counted(layout, self.bounds.max_bytes, **more)
        layout.empty_trash()

    def _count(self, layout: Layout, **more: int) -> None:
        with briefly(layout.lock):
            counted(layout, self.bounds.max_bytes, **more)


def _cached(layout: Layout, key: str, entry: Entry, *, is_hit: bool) -> CachedArtifact:
    return CachedArtifact(
        path=layout.content(key) / entry.name, files=len(entry.files), total_bytes=entry.total_bytes, is_hit=is_hit
    )


def _entry_of(wanted: WantedArtifact, fetched: FetchedArtifact, content: Path, origin: str) -> Entry:
    """Reads what has no digest yet."""
    files = {
        file.name: CachedFile(
            size=file.total_bytes or 0,
            sha256=file.sha256 or file_sha256(content / file.name),
            uri=file.uri,
            version=file.version,
        )
        for file in fetched.contents
    }
    return Entry(uri=wanted.uri, origin=origin, name=wanted.target.name, files=files)


async def _checked_suffix(
    prefix: str, wanted: WantedArtifact, fetched: FetchedArtifact, store: Store, origin: str
) -> str:
    """Raises NotCached for what was replaced while it was fetched, and for companions without versions."""
    others: list[RemoteFile] = []
    if not is_folder_uri(wanted.uri):
        others = [file for file in fetched.contents if file.name != wanted.target.name]
    if not wanted.sha256:
        if await prefix_of(wanted, store, origin) != prefix:
            raise NotCached("it was replaced while it was fetched")
        if not all(file.version for file in others):
            raise NotCached("it names files whose server does not tell versions apart (ETag)")
    return suffix_of(wanted.target.name, others, by_digest=bool(wanted.sha256))


def _repair(staged: Path, content: Path, entry: Entry) -> None:
    for name in entry.files:
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).replace(content / name)
    for root, _, names in os.walk(content):
        for path in (Path(root, name) for name in names):
            if path.relative_to(content).as_posix() not in entry.files:
                path.unlink()


def _write_in_place(path: Path, text: bytes) -> None:
    """The same file, because those who use the entry hold a lock on it. One that is cut short is no entry."""
    with path.open("r+b") as file:
        file.write(text)
        file.truncate()
