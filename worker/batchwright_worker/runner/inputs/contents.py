"""Is a file of the input still the one that was planned? By its version; where that is only a time, by its contents."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Final

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.items import SourceFile
from batchwright_worker.runner.storage.locations import Location
from batchwright_worker.runner.storage.plan_file import PlannedSegment

_THREADS: Final = 4
_BLOCK: Final = 1 << 20
GONE: Final = "gone"
UNREADABLE: Final = "unreadable:"


def fingerprint(info: dict[str, Any]) -> str:
    """What changes when a file's contents do: its size with its etag, or with its time of modification."""
    for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created"):
        if info.get(key):
            return f"{info.get('size')}:{str(info[key]).strip(chr(34))}"
    return f"{info.get('size')}:"


def with_digests(
    location: Location, files: Sequence[SourceFile], known: Mapping[str, PlannedSegment]
) -> list[SourceFile]:
    """With digests of the contents, on a file system: times of modification change without the file, and the file may
    change within the clock's step. A file of a known fingerprint is not read again."""
    if not location.local:
        return list(files)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="digest") as threads:
        return list(threads.map(partial(with_digest, location, known=known), files))


def with_digest(location: Location, file: SourceFile, known: Mapping[str, PlannedSegment]) -> SourceFile:
    """See `with_digests`."""
    if not location.local:
        return file
    planned = known.get(file.path)
    if planned is not None and planned.fingerprint == file.fingerprint and planned.digest:
        return replace(file, digest=planned.digest)
    return replace(file, digest=content_digest(location, file.path))


def content_digest(location: Location, path: str) -> str:
    """Of the whole file; what cannot be read has a digest of its own, and is its reader's business."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with location.open(path) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        return f"{UNREADABLE} {type(error).__name__}"
    return digest.hexdigest()


def check_unchanged(location: Location, segment: PlannedSegment) -> None:
    """Raise StepFailed(InputChanged) if the file is not the one that was planned. One that could not be read then (a
    link to nothing, a lack of rights) is its reader's business."""
    if segment.digest.startswith(UNREADABLE):
        return
    try:
        now = fingerprint(location.info(segment.path))
    except FileNotFoundError:
        now = GONE
    if now != segment.fingerprint and not _same_contents(location, segment, now):
        message = (
            f"{segment.path} changed since the plan (size and version were {segment.fingerprint}, now {now}): restore "
            "it, or run a new job with another output.uri"
        )
        raise StepFailed("InputChanged", message)


def differences(location: Location, planned: Mapping[str, PlannedSegment], now: Iterable[SourceFile]) -> list[str]:
    """Names of the files that are new, gone or have other contents."""
    present = {file.path: file for file in now}
    found = [f"{planned[path].name} (gone)" for path in planned.keys() - present.keys()]
    for path, file in present.items():
        before = planned.get(path)
        if before is None:
            found.append(f"{file.name} (new)")
        elif before.fingerprint != file.fingerprint and not _same_contents(location, before, file.fingerprint):
            found.append(f"{file.name} (changed)")
    return sorted(found)


def _same_contents(location: Location, segment: PlannedSegment, now: str) -> bool:
    same_size = now.partition(":")[0] == segment.fingerprint.partition(":")[0]
    return (
        bool(segment.digest) and now != GONE and same_size and _digest_at(location, segment.path, now) == segment.digest
    )


@functools.lru_cache(maxsize=1024)
def _digest_at(location: Location, path: str, version: str) -> str:
    """Read once for all segments of a file of this version."""
    return content_digest(location, path)
