"""Where an artifact is read from: what every source can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSource:
    """An open transfer: it starts at `offset` (0 if the source could not resume), `total_bytes` is the file's size."""

    offset: int
    total_bytes: int | None
    chunks: AsyncIterator[bytes]


class ArtifactSource(Protocol):
    """One remote file."""

    def open(self, offset: int) -> AbstractAsyncContextManager[OpenedSource]:
        """A transfer from `offset` on. Raises FetchRefused or Interrupted, also while chunks are read."""
