"""Weights that `serve` and `run` fetch: kept in the user's cache, which is bounded, or for this run alone."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from batchwright_worker.api.documents import Document
from batchwright_worker.api.names import ENV_CACHE, ENV_CACHE_BYTES
from batchwright_worker.api.uris import base_name, without_secrets

if TYPE_CHECKING:
    from batchwright_worker.fetch.artifact import WantedArtifact
    from batchwright_worker.fetch.cache.weights_cache import WeightsCache
    from batchwright_worker.fetch.source import Store

DEFAULT_BYTES: Final = 50 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCache:
    """Where it is, and how many bytes it may hold."""

    root: Path
    max_bytes: int = DEFAULT_BYTES


def local_cache(folder: Path | None = None, max_bytes: int = DEFAULT_BYTES) -> LocalCache:
    """By default below XDG_CACHE_HOME."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return LocalCache(root=folder or home / "batchwright" / "weights", max_bytes=max_bytes)


cache_option = click.option(
    "--cache",
    "cache_folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=ENV_CACHE,
    default=None,
    help=f"Folder for fetched weights ({ENV_CACHE}); default: batchwright/weights in the user's cache.",
)
cache_bytes_option = click.option(
    "--cache-bytes",
    type=click.IntRange(min=1),
    envvar=ENV_CACHE_BYTES,
    default=DEFAULT_BYTES,
    show_default=True,
    help="What it may hold; the least recently used weights go.",
)


def fetched(artifact: Document, cache: LocalCache) -> Path:
    """The artifact on this machine, fetched with the same checks as by a pod's init container. It stays for as long as
    this process lives. Raises FetchError."""
    from batchwright_worker.fetch.artifact import WantedArtifact
    from batchwright_worker.fetch.policy import policy_of
    from batchwright_worker.fetch.sources import store_of

    uri, policy = artifact["uri"], policy_of(os.environ)
    policy.check_uri(uri)
    wanted = WantedArtifact(
        uri=uri,
        format=artifact["format"],
        target=Path("/", base_name(uri)),
        max_bytes=artifact["maxBytes"],
        sha256=artifact.get("sha256", ""),
    )
    return asyncio.run(_brought(wanted, store_of(uri, policy, {}, wanted.format), cache))


async def _brought(wanted: WantedArtifact, store: Store, cache: LocalCache) -> Path:
    from batchwright_worker.fetch.artifact import fetch_artifact
    from batchwright_worker.fetch.cache.identity import origin_of
    from batchwright_worker.fetch.cache.room import Bounds
    from batchwright_worker.fetch.cache.weights_cache import WeightsCache

    bounds = Bounds(max_bytes=cache.max_bytes, keep_free=0.0, grace_s=0.0)
    shared = WeightsCache(cache.root, bounds, _say, may_be_old=True)
    _open.append(shared)
    if (found := await shared.bring_if_possible(wanted, store, origin_of({}, os.environ))) is not None:
        return found.path
    target = _own_folder(cache.root) / "artifact" / wanted.target.name
    await fetch_artifact(replace(wanted, target=target), store, _say)
    return target


def _say(text: str) -> None:
    """Beside what a program reads of `run --json`."""
    click.echo(without_secrets(text), err=True)


_open: list[WeightsCache] = []
"""What they hold is in use until this process ends."""


def _own_folder(root: Path) -> Path:
    """For this process alone; those of processes that have ended go."""
    from batchwright_worker.file_locks import shared_lock, taken

    parent = root / "uncached"
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.iterdir():
        try:
            lock = taken(old / "lock")
        except FileNotFoundError:
            continue  # its process is just making it
        if lock is not None:
            shutil.rmtree(old, ignore_errors=True)
            lock.release()
    folder = Path(tempfile.mkdtemp(dir=parent))
    (folder / "lock").touch()
    shared_lock(folder / "lock")  # to the end of this process
    return folder
