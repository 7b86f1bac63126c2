"""One file, from its source to its place: whole, of the right digest, within its limits, or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from batchwright_worker.fetch.errors import FetchRefused, Interrupted
from batchwright_worker.fetch.source import ArtifactSource

ATTEMPTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to fetch and where to; `sha256` empty: any digest."""

    uri: str
    target: Path
    max_bytes: int
    sha256: str = ""


async def download(
    wanted: Wanted, source: ArtifactSource, say: Callable[[str], None], *, base_wait_s: float = 1.0
) -> int:
    """Fetches the file and returns its size; a file that is there already is kept if its digest is right.

    Interrupted transfers are resumed after a growing wait, `ATTEMPTS` times in all. The file appears under its name by
    one rename. Raises FetchRefused, or Interrupted after the last attempt.
    """
    if wanted.target.exists() and (not wanted.sha256 or _digest(wanted.target) == wanted.sha256):
        return wanted.target.stat().st_size
    part = wanted.target.with_name(f".{wanted.target.name}.part")
    _prepare(part)
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Interrupted),
        stop=stop_after_attempt(ATTEMPTS),
        wait=_Wait(base_wait_s),
        before_sleep=lambda state: say(f"attempt {state.attempt_number} of {ATTEMPTS}: {_failure(state)}"),
        reraise=True,
    )
    async for attempt in retrying:
        with attempt:
            await _transfer(wanted, source, part)
    _check_digest(wanted, part)
    part.replace(wanted.target)
    return wanted.target.stat().st_size


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


def _prepare(part: Path) -> None:
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # of an earlier process, which did not say of which version it is
    except OSError as error:
        raise FetchRefused(
            f"{part.parent}: {error.strerror}: the volume for fetched artifacts is not writable"
        ) from error


async def _transfer(wanted: Wanted, source: ArtifactSource, part: Path) -> None:
    """Brings `part` to its full length, from where it ends now if the source can do that."""
    async with source.open(_size_of(part)) as opened:
        _check_size(wanted, opened.total_bytes or 0)
        with part.open("r+b" if opened.offset else "wb") as file:
            file.seek(opened.offset)
            async for chunk in opened.chunks:
                _check_size(wanted, file.tell() + len(chunk))
                _write(file.write, chunk, wanted)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
    if opened.total_bytes is not None and size != opened.total_bytes:
        raise Interrupted(f"{wanted.uri}: ended after {size} of {opened.total_bytes} bytes")


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _write(write: Callable[[bytes], int], chunk: bytes, wanted: Wanted) -> None:
    try:
        write(chunk)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchRefused(
                f"{wanted.uri}: no space left for it; raise artifacts[].maxBytes or free the node's disk"
            ) from error
        raise


def _check_size(wanted: Wanted, size: int) -> None:
    if size > wanted.max_bytes:
        raise FetchRefused(
            f"{wanted.uri}: larger than artifacts[].maxBytes, {wanted.max_bytes} bytes (at least {size}); raise it if "
            "the file is the right one"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_digest(wanted: Wanted, part: Path) -> None:
    if not wanted.sha256:
        return
    found = _digest(part)
    if found != wanted.sha256:
        part.unlink()
        raise FetchRefused(
            f"{wanted.uri}: its SHA-256 is {found}, artifacts[].sha256 says {wanted.sha256}; the file has changed, or "
            "the digest is of another one"
        )
