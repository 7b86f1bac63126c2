"""Where an artifact is read from: what every source can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSource:
    """An open transfer: it starts at `offset` (0 if the source could not resume), `total_bytes` is the file's size,
    `version` what the source tells this content from another by; empty where it cannot. `end_is_told`: a transfer that
    breaks off does not look like one that is whole."""

    offset: int
    total_bytes: int | None
    version: str
    chunks: AsyncIterator[bytes]
    end_is_told: bool = True


class FileSource(Protocol):
    """One remote file."""

    def open(self, offset: int = 0, version: str = "") -> AbstractAsyncContextManager[OpenedSource]:
        """A transfer from `offset` on if the file is still of this version, else from its beginning. Raises
        FetchRefused or Interrupted, also while chunks are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of an artifact; `name` is relative to the artifact's folder. What is not known is None or empty."""

    name: str
    uri: str
    total_bytes: int | None = None
    version: str = ""
    sha256: str = ""


class Store(Protocol):
    """Where an artifact's files are: opens each, and lists a folder."""

    def source(self, uri: str) -> FileSource:
        """Of one file."""

    async def files(self, folder_uri: str) -> list[RemoteFile]:
        """What is below the folder, by checked names. Raises FetchRefused or Interrupted."""
