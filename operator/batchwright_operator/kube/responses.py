"""Responses of the API server as values: errors, and the lines of a watch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from batchwright_operator.errors import ApiError, Gone, Unavailable, error_of
from batchwright_operator.kube.objects import Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Raw


async def error_from(response: aiohttp.ClientResponse) -> ApiError:
    """The error of a response with a status of 400 or more."""
    body = await response.read()
    try:
        status: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        status = {}
    if not isinstance(status, dict):
        status = {}
    message = status.get("message") or body[:300].decode(errors="replace") or response.reason or "no reason given"
    after = response.headers.get("Retry-After", "")
    retry_after_s = float(after) if after.isdigit() else None
    return error_of(response.status, str(status.get("reason") or ""), str(message), retry_after_s)


async def lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a stream, of any length."""
    rest: list[bytes] = []  # by hand, because an object may be longer than any limit of `readline`
    async for chunk in stream.iter_any():
        *whole, last = chunk.split(b"\n")
        for line in whole:
            complete = b"".join([*rest, line])
            rest.clear()
            if complete.strip():
                yield complete
        rest.append(last)


def event_from(line: bytes) -> WatchEvent:
    """One line of a watch. Raises Gone or Unavailable for an ERROR."""
    try:
        raw = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise Unavailable(f"a line of a watch is broken: {error}") from error
    if raw["type"] == "ERROR":
        status = raw["object"]
        failure = error_of(int(status.get("code") or 500), str(status.get("reason") or ""), str(status.get("message")))
        # Whatever else it is, trying again later is all that a watch can do.
        raise failure if isinstance(failure, Gone) else Unavailable(failure.message, code=failure.code)
    return WatchEvent(type=raw["type"], object=raw["object"])
