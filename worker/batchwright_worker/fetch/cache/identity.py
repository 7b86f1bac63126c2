"""By what an artifact is known in the cache: its digest, or what its store tells versions by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Final

from batchwright_worker.api.uris import is_folder_uri
from batchwright_worker.fetch.artifact import WantedArtifact
from batchwright_worker.fetch.cache.layout import Entry
from batchwright_worker.fetch.errors import Interrupted, NotCached
from batchwright_worker.fetch.source import RemoteFile, Store
from batchwright_worker.fetch.store_options import ENDPOINTS

_PLACES: Final = (
    *chain.from_iterable(ENDPOINTS.values()),
    "AZURE_STORAGE_ACCOUNT_NAME",
    "HF_ENDPOINT",
    "MLFLOW_TRACKING_URI",
)
"""What else than the address says where an artifact is; of a Secret, else of the environment."""


def origin_of(secret: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Two artifacts with the same address may be others where this differs."""
    found = {name: value for name in _PLACES if (value := secret.get(name) or environ.get(name))}
    return json.dumps(found, sort_keys=True) if found else ""


async def prefix_of(wanted: WantedArtifact, store: Store, origin: str) -> str:
    """Of the entries that this artifact may be. With a digest nobody is asked; without one the store is, by the
    credentials of who asks: what it gives to nobody else, nobody else gets from the cache. Raises NotCached where it
    does not tell versions apart, FetchRefused, Interrupted."""
    if wanted.sha256:
        return wanted.sha256
    if is_folder_uri(wanted.uri):
        versions = [(file.name, file.sha256 or file.version) for file in await store.files(wanted.uri)]
    else:
        versions = [("", await version_of(wanted.uri, store))]
    if not versions or not all(version for _, version in versions):
        raise NotCached("it has no sha256, and its server does not tell versions apart (ETag)")
    return _digest([wanted.uri, origin, wanted.format, *versions])


def suffix_of(name: str, companions: Iterable[RemoteFile], *, by_digest: bool) -> str:
    """What tells apart the entries of one prefix: what they are called on disk, and without a digest the versions of
    the files that the first one names."""
    versions = [] if by_digest else sorted((each.name, each.version) for each in companions)
    return _digest([name, *versions])[:16]


async def is_current(entry: Entry, wanted: WantedArtifact, store: Store) -> bool:
    """Are the files that the artifact's first one names still of the versions that the entry has?"""
    if wanted.sha256 or is_folder_uri(wanted.uri):
        return True
    others = [file for name, file in entry.files.items() if name != entry.name]
    try:
        return all([file.version == await version_of(file.uri, store) for file in others])
    except Interrupted:
        return False  # a fetch tries more often


async def version_of(uri: str, store: Store) -> str:
    """Empty where the store does not tell. Raises FetchRefused, Interrupted."""
    async with store.source(uri).open() as opened:
        return opened.version


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
