"""Models of the Hugging Face Hub, or of what speaks its API: hf://ORG/MODEL[@REVISION][/PATH].

A revision (a branch, a tag, a commit; `main` without any) is looked up once, and everything is fetched from that one
commit. Files in large storage come with their SHA-256, which is checked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import quote, unquote

import msgspec

from batchwright_worker.api.uris import hub_parts
from batchwright_worker.artifacts.names import SUMS, ArtifactError, checked_names
from batchwright_worker.fetch.errors import FetchRefused
from batchwright_worker.fetch.policy import FetchPolicy
from batchwright_worker.fetch.source import OpenedSource, RemoteFile
from batchwright_worker.fetch.web import WebSource

_T = TypeVar("_T")
ENDPOINT: Final = "https://huggingface.co"
_DENIED: Final = (
    "the model, its revision or the file is not there, is private, or asks for consent first; correct the uri, or name "
    "a Secret with HF_TOKEN in artifacts[].secretRef"
)
_ADVICE: Final = {401: _DENIED, 403: _DENIED, 404: _DENIED}
_MOST_PAGES: Final = 100


@dataclass(frozen=True, slots=True)
class HubAddress:
    """`path` within the repository, empty for all of it."""

    repository: str
    revision: str
    path: str


def hub_address(uri: str) -> HubAddress:
    """Raises FetchRefused, for an @ without a revision too: that may be one that a template has lost."""
    parts = hub_parts(uri)
    if parts is None or parts.revision == "":
        raise FetchRefused(f"{uri}: write hf://ORG/MODEL, hf://ORG/MODEL@REVISION or hf://ORG/MODEL@REVISION/PATH")
    steps = [*parts.repository.split("/"), *parts.path.removesuffix("/").split("/")]
    if any(step in (".", "..") for step in steps) or "" in steps[:-1]:
        raise FetchRefused(
            f"{uri}: an empty part, . or .. names nothing on the hub; write the path as its pages show it"
        )
    return HubAddress(parts.repository, unquote(parts.revision or "main"), parts.path)


class _Revision(msgspec.Struct):
    """GET /api/models/ORG/MODEL/revision/REVISION."""

    sha: str


class _LargeFile(msgspec.Struct):
    oid: str
    """Its SHA-256."""


class _Entry(msgspec.Struct):
    """Of GET /api/models/ORG/MODEL/tree/COMMIT/PATH?recursive=true."""

    type: str
    path: str
    size: int = 0
    oid: str = ""
    lfs: _LargeFile | None = None


@dataclass(slots=True)
class HubStore:
    """`secret` may have HF_TOKEN and HF_ENDPOINT, as the environment may."""

    policy: FetchPolicy
    secret: Mapping[str, str]
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _commits: dict[tuple[str, str], str] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def source(self, uri: str) -> HubSource:
        """See Store. Raises FetchRefused."""
        return HubSource(hub_address(uri), self)

    async def files(self, folder_uri: str) -> list[RemoteFile]:
        """See Store."""
        wanted = hub_address(folder_uri)
        commit = await self.commit(wanted)
        below = wanted.path if not wanted.path or wanted.path.endswith("/") else f"{wanted.path}/"
        entries = {
            entry.path.removeprefix(below): entry
            for entry in await self._tree(wanted, commit)
            if entry.type == "file" and entry.path.startswith(below)
        }
        try:
            names = [name for name in checked_names(entries, folder_uri) if name != SUMS]
        except ArtifactError as error:
            raise FetchRefused(str(error)) from error
        root = folder_uri if folder_uri.endswith("/") else f"{folder_uri}/"
        return [
            RemoteFile(
                name=name,
                uri=root + name,
                total_bytes=entries[name].size,
                version=entries[name].oid,
                sha256=large.oid if (large := entries[name].lfs) is not None else "",
            )
            for name in names
        ]

    async def commit(self, wanted: HubAddress) -> str:
        """The commit that the revision is now; the same for all files. Raises FetchRefused, Interrupted."""
        key = (wanted.repository, wanted.revision)
        async with self._lock:
            if key not in self._commits:
                path = f"api/models/{wanted.repository}/revision/{quote(wanted.revision, safe='')}"
                body, _ = await self.web(path).read()
                self._commits[key] = self._decoded(body, _Revision, path).sha
            return self._commits[key]

    def web(self, path: str) -> WebSource:
        """What lies there on the endpoint, or behind a whole address on it."""
        token = self._setting("HF_TOKEN")
        url = path if "://" in path else f"{self._setting('HF_ENDPOINT').rstrip('/') or ENDPOINT}/{path}"
        return WebSource(url, self.policy, authorization=f"Bearer {token}" if token else "", advice=_ADVICE)

    async def _tree(self, wanted: HubAddress, commit: str) -> list[_Entry]:
        folder = quote(wanted.path.strip("/"))
        path = f"api/models/{wanted.repository}/tree/{commit}/{folder}".rstrip("/") + "?recursive=true"
        found: list[_Entry] = []
        for _ in range(_MOST_PAGES):
            body, path = await self.web(path).read()
            found += self._decoded(body, list[_Entry], f"the files of {wanted.repository}")
            if not path:
                return found
        raise FetchRefused(f"hf://{wanted.repository} has more than {_MOST_PAGES} pages of files: write a folder of it")

    def _setting(self, name: str) -> str:
        return (self.secret.get(name) or self.environ.get(name) or "").strip()

    @staticmethod
    def _decoded(body: bytes, kind: type[_T], what: str) -> _T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise FetchRefused(f"{what}: no answer of a model hub ({error}); correct HF_ENDPOINT") from error


@dataclass(frozen=True, slots=True)
class HubSource:
    """One file of a repository."""

    address: HubAddress
    store: HubStore

    @asynccontextmanager
    async def open(self, offset: int = 0, version: str = "") -> AsyncIterator[OpenedSource]:
        """See FileSource."""
        commit = await self.store.commit(self.address)
        web = self.store.web(f"{self.address.repository}/resolve/{commit}/{quote(self.address.path)}")
        async with web.open(offset, version) as opened:
            yield opened
