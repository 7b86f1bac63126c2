"""Artifacts from buckets: s3://, gs:// and az://."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from batchwright_worker.artifacts.names import SUMS, ArtifactError, checked_names
from batchwright_worker.fetch.buckets import Buckets, ObjectAddress, address_of, meaning
from batchwright_worker.fetch.errors import FetchRefused, Interrupted
from batchwright_worker.fetch.source import CHUNK_BYTES, OpenedSource, RemoteFile

SILENT_S: Final = 60.0
"""So long may an open transfer bring nothing."""


class ObjectStore:
    """The objects that one Secret opens."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets

    def source(self, uri: str) -> ObjectSource:
        """See Store. Raises FetchRefused."""
        return ObjectSource(address_of(uri), self._buckets)

    async def files(self, folder_uri: str) -> list[RemoteFile]:
        """See Store."""
        folder = address_of(folder_uri)
        try:
            store = await asyncio.to_thread(self._buckets.store, folder)
            found = {each["path"].removeprefix(folder.key): each async for each in _listed(store, folder)}
        except Exception as error:
            raise meaning(folder, error) from error
        try:
            names = [name for name in checked_names(found, folder_uri) if name != SUMS]
        except ArtifactError as error:
            raise FetchRefused(str(error)) from error
        return [
            RemoteFile(
                name=name, uri=folder_uri + name, total_bytes=int(found[name]["size"]), version=_version(found[name])
            )
            for name in names
        ]


async def _listed(store: Any, folder: ObjectAddress) -> AsyncIterator[Any]:
    """Everything below. Objects that stand for folders (`a/`, which some consoles make) are none of it: the library
    shows them without their slash, as empty objects that are not there."""
    async for page in store.list(folder.key or None):
        for each in page:
            if each["path"].startswith(folder.key) and (each["size"] or await _is_there(store, each["path"])):
                yield each


async def _is_there(store: Any, key: str) -> bool:
    try:
        await store.head_async(key)
    except FileNotFoundError:
        return False
    return True


class ObjectSource:
    """One object."""

    def __init__(self, address: ObjectAddress, buckets: Buckets) -> None:
        self._address = address
        self._buckets = buckets

    @asynccontextmanager
    async def open(self, offset: int = 0, version: str = "") -> AsyncIterator[OpenedSource]:
        """See FileSource. It is one request, so all of its bytes are of one version."""
        try:
            store = await asyncio.to_thread(self._buckets.store, self._address)
            known = await store.head_async(self._address.key)
            size, found = int(known["size"]), _version(known)
            start = offset if found and found == version and offset <= size else 0
            chunks = self._chunks(store, start, found) if start < size else _nothing()
            yield OpenedSource(offset=start, total_bytes=size, version=found, chunks=chunks)
        except Exception as error:
            raise meaning(self._address, error) from error

    async def _chunks(self, store: Any, start: int, version: str) -> AsyncIterator[bytes]:
        from obstore.exceptions import PreconditionError

        options: dict[str, Any] = {"if_match": version} if version else {}
        if start:
            options["range"] = {"offset": start}
        try:
            result = await store.get_async(self._address.key, options=options)
        except PreconditionError as error:
            raise Interrupted(f"{self._address.uri}: the object was replaced before it was read") from error
        stream = result.stream(min_chunk_size=CHUNK_BYTES).__aiter__()
        while True:
            try:
                async with asyncio.timeout(SILENT_S):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise Interrupted(f"{self._address.uri}: no bytes for {SILENT_S:g} s") from None
            yield bytes(chunk)


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for chunk in nothing:
        yield chunk


def _version(known: Any) -> str:
    """What the store tells versions by; empty if it does not."""
    return str(known.get("e_tag") or "")
