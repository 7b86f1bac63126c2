"""One file, from its source to the staging folder: whole, of the right digest, within its limits, or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from batchwright_worker.artifacts.digest import file_sha256
from batchwright_worker.fetch.errors import FetchRefused, Interrupted, NoSpace
from batchwright_worker.fetch.source import FileSource, RemoteFile
from batchwright_worker.fetch.staging import FULL, Allowance, Staging

ATTEMPTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfers:
    """What all files of one artifact share."""

    staging: Staging
    allowance: Allowance
    say: Callable[[str], None]
    base_wait_s: float = 1.0
    digest_is_known: bool = False
    """The artifact's own, which is checked at the end."""


async def download(file: RemoteFile, source: FileSource, transfers: Transfers) -> Path:
    """Fetches the file and returns where it is; one that an earlier process has fetched is kept if it is the same.

    Interrupted transfers are resumed after a growing wait, `ATTEMPTS` times in all, and those of an earlier process if
    the source tells versions apart. Raises FetchRefused, or Interrupted after the last attempt.
    """
    staging, whole = transfers.staging, transfers.staging.whole(file.name)
    if _is_kept(file, staging, whole):
        transfers.allowance.check(file.name, whole.stat().st_size)
        return whole
    part = staging.part(file.name)
    if not staging.version(file.name):
        staging.begin(file.name)
    async for attempt in attempts(transfers.say, transfers.base_wait_s):
        with attempt:
            await _transfer(file, source, part, transfers)
    _check_digest(file, part)
    part.replace(whole)
    return whole


def attempts(say: Callable[[str], None], base_wait_s: float) -> AsyncRetrying:
    """`async for attempt in ..: with attempt: ..` repeats what is Interrupted."""
    return AsyncRetrying(
        retry=retry_if_exception_type(Interrupted),
        stop=stop_after_attempt(ATTEMPTS),
        wait=_Wait(base_wait_s),
        before_sleep=lambda state: say(f"attempt {state.attempt_number} of {ATTEMPTS}: {_failure(state)}"),
        reraise=True,
    )


def _is_kept(file: RemoteFile, staging: Staging, whole: Path) -> bool:
    if not whole.is_file():
        return False
    if file.sha256:
        same = file_sha256(whole) == file.sha256
    else:
        same = bool(file.version) and staging.version(file.name) == file.version
    if not same:
        staging.begin(file.name)
    return same


class _Wait(wait_random_exponential):
    """Exponential with jitter, and never less than the server asked for."""

    def __init__(self, base_s: float) -> None:
        super().__init__(multiplier=base_s, max=30 * base_s)

    def __call__(self, retry_state: RetryCallState) -> float:
        failure = _failure(retry_state)
        asked = failure.retry_after_s if isinstance(failure, Interrupted) else 0.0
        return max(super().__call__(retry_state), asked)


def _failure(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


async def _transfer(file: RemoteFile, source: FileSource, part: Path, transfers: Transfers) -> None:
    """Brings `part` to its full length, from where it ends now if it is of the version that the source has."""
    staging = transfers.staging
    async with source.open(_size_of(part), staging.version(file.name)) as opened:
        transfers.allowance.check(file.name, max(opened.total_bytes or 0, opened.offset))
        if not (opened.end_is_told or file.sha256 or transfers.digest_is_known):
            raise FetchRefused(
                f"{file.uri}: the server does not say where it ends, so that a part of it would look whole; write its "
                "digest as artifacts[].sha256"
            )
        if opened.offset > _size_of(part):
            raise Interrupted(f"{file.uri}: the server went on behind the end of what has arrived")
        if not opened.offset:
            staging.begin(file.name, opened.version)
        with _room_for(file.uri), part.open("r+b" if opened.offset else "wb") as written:
            written.seek(opened.offset)
            async for chunk in opened.chunks:
                transfers.allowance.check(file.name, max(opened.total_bytes or 0, written.tell() + len(chunk)))
                written.write(chunk)
            written.truncate()
            written.flush()
            os.fsync(written.fileno())
            size = written.tell()
    if opened.total_bytes is not None and size != opened.total_bytes:
        raise Interrupted(f"{file.uri}: ended after {size} of {opened.total_bytes} bytes")


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def _room_for(uri: str) -> Iterator[None]:
    """A disk may be found full as late as by fsync, or when the file is closed. Raises NoSpace."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise NoSpace(f"{uri}: no space left for it; raise artifacts[].maxBytes or free the node's disk") from error
        raise


def _check_digest(file: RemoteFile, part: Path) -> None:
    """Against what the folder's index says; the artifact's own digest is checked when all files are there."""
    if file.sha256 and (found := file_sha256(part)) != file.sha256:
        part.unlink()
        raise FetchRefused(
            f"{file.uri}: its SHA-256 is {found}, that of its index (SHA256SUMS, or the hub's) is {file.sha256}"
        )
