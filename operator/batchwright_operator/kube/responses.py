"""Responses of the API server as values: errors, pages of lists, and the lines of a watch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec

from batchwright_operator.errors import ApiError, Gone, NotServed, Unavailable, error_of
from batchwright_operator.kube.metadata import whole_number
from batchwright_operator.kube.objects import Raw

Decode = Callable[[bytes | msgspec.Raw], Raw]
"""Makes an object of its JSON, which may leave out what nobody needs."""


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
    details = status.get("details")
    if response.status == 404 and not (isinstance(details, dict) and details.get("name")):
        return NotServed(str(message).strip(), code=404, reason=str(status.get("reason") or ""))
    after_s = whole_number(response.headers.get("Retry-After", ""))
    retry_after_s = None if after_s is None else float(after_s)
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


def event_from(line: bytes, decode: Decode | None = None) -> WatchEvent:
    """One line of a watch. Raises Gone or Unavailable for an ERROR."""
    try:
        raw = _EVENT.decode(line)
        obj = msgspec.json.decode(raw.object) if decode is None or raw.type in _OF_THE_WATCH else decode(raw.object)
    except msgspec.MsgspecError as error:
        raise Unavailable(f"a line of a watch is broken: {error}") from error
    if raw.type == "ERROR":
        failure = error_of(int(obj.get("code") or 500), str(obj.get("reason") or ""), str(obj.get("message")))
        # Whatever else it is, trying again later is all that a watch can do.
        raise failure if isinstance(failure, Gone) else Unavailable(failure.message, code=failure.code)
    return WatchEvent(type=raw.type, object=obj)


class _RawEvent(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _ListMeta(msgspec.Struct, frozen=True):
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    token: str = msgspec.field(default="", name="continue")


class _RawPage(msgspec.Struct, frozen=True):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


_EVENT: Final = msgspec.json.Decoder(_RawEvent)
_PAGE: Final = msgspec.json.Decoder(_RawPage)
_OF_THE_WATCH: Final = ("ERROR", "BOOKMARK")
"""Events whose object is none of the resource."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a list; `token` asks for the next one, empty: it is the last."""

    items: Sequence[msgspec.Raw]
    version: int
    token: str

    def parts(self, decode: Decode | None, at_once: int) -> Iterator[list[Raw]]:
        """Its objects, so many at a time, decoded when they are asked for; at least one part. Raises Unavailable."""
        for first in range(0, len(self.items) or 1, at_once):
            try:
                yield [(decode or msgspec.json.decode)(each) for each in self.items[first : first + at_once]]
            except msgspec.MsgspecError as error:
                raise Unavailable(f"a list is broken: {error}") from error


def page_from(body: bytes) -> Page:
    """One page of a list. Raises Unavailable for anything else."""
    try:
        page = _PAGE.decode(body)
    except msgspec.MsgspecError as error:
        raise Unavailable(f"a list is broken: {error}") from error
    return Page(items=page.items or (), version=int(page.metadata.resource_version or 0), token=page.metadata.token)
