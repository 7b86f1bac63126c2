"""`batchwright-worker fetch`: the init container that brings artifacts into the pod."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from batchwright_worker.api.deployment import Artifact, ModelDeployment, parse_deployment
from batchwright_worker.api.names import (
    DEPLOYMENT_FILE,
    ENV_CACHE,
    ENV_CACHE_BYTES,
    ENV_CACHE_KEEP_FREE,
    ENV_KIND,
    TERMINATION_LOG,
    TERMINATION_MESSAGE_MAX_BYTES,
    is_mounted,
    weights_path,
)
from batchwright_worker.api.uris import without_secrets
from batchwright_worker.artifacts.digest import digest_of
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.fetch.artifact import WantedArtifact, fetch_artifact
from batchwright_worker.fetch.at_once import at_once
from batchwright_worker.fetch.cache.holding import link
from batchwright_worker.fetch.cache.identity import origin_of
from batchwright_worker.fetch.cache.room import Bounds
from batchwright_worker.fetch.cache.weights_cache import WeightsCache
from batchwright_worker.fetch.errors import FetchError, FetchRefused
from batchwright_worker.fetch.policy import FetchPolicy, policy_of
from batchwright_worker.fetch.source import Store
from batchwright_worker.fetch.sources import read_secret, store_of
from batchwright_worker.texts import presentable


def artifacts_of(deployment: ModelDeployment, kind: str) -> list[Artifact]:
    """Those of one accelerator kind (of all if empty) that have files; each URI once."""
    found = {
        artifact.uri: artifact
        for model in deployment.spec.models
        for artifact in model.artifacts
        if artifact.uri and kind in ("", artifact.accelerator)
    }
    return list(found.values())


def check_mounted(artifact: Artifact) -> None:
    """The digest of what somebody else put there, if one is wanted. Raises FetchRefused."""
    if not artifact.sha256:
        return
    path = Path(weights_path(artifact.uri or ""))
    try:
        found = digest_of(path, artifact.format)
    except (ArtifactError, OSError) as error:
        raise FetchRefused(f"{artifact.uri}: its digest cannot be told: {error}") from error
    if found != artifact.sha256:
        raise FetchRefused(
            f"{artifact.uri}: its digest is {found}, artifacts[].sha256 says {artifact.sha256}; the artifact has "
            "changed, or the digest is of another one"
        )


async def fetch_all(
    artifacts: Iterable[Artifact], policy: FetchPolicy, max_seconds: float, cache: WeightsCache | None = None
) -> None:
    """A few at a time, within a time for all. Raises FetchError."""
    try:
        async with asyncio.timeout(max_seconds):
            await at_once(artifacts, lambda artifact: _fetch(artifact, policy, cache))
    except TimeoutError:
        raise FetchRefused(
            f"not done after {max_seconds:g} s: raise --max-seconds or use a nearer or smaller file"
        ) from None


async def _fetch(artifact: Artifact, policy: FetchPolicy, cache: WeightsCache | None) -> None:
    uri, start = artifact.uri or "", time.monotonic()
    if is_mounted(uri):
        await asyncio.to_thread(check_mounted, artifact)
        return
    policy.check_uri(uri)
    secret = read_secret(artifact.secret_ref.name if artifact.secret_ref else None)
    wanted = WantedArtifact(
        uri=uri,
        format=artifact.format,
        target=Path(weights_path(uri)),
        max_bytes=artifact.max_bytes,
        sha256=artifact.sha256 or "",
    )
    store = store_of(uri, policy, secret, artifact.format)
    if cache is not None and await _linked(wanted, store, cache, origin_of(secret, os.environ), start):
        return
    fetched = await fetch_artifact(wanted, store, _say)
    if fetched.already:
        _say(f"{uri}: is there already, {wanted.target}")
        return
    _say(f"{uri}: {_amount(fetched.files, fetched.total_bytes, start)} -> {wanted.target}")


async def _linked(wanted: WantedArtifact, store: Store, cache: WeightsCache, origin: str, start: float) -> bool:
    """Is the artifact's folder now a link into the cache? If not, it is as it was, but no link."""
    place = wanted.target.parent
    if wanted.target.exists() and not place.is_symlink():
        return False  # an earlier run of this container has fetched it past the cache
    place.unlink(missing_ok=True) if place.is_symlink() else shutil.rmtree(place, ignore_errors=True)
    found = await cache.bring_if_possible(wanted, store, origin)
    if found is None:
        return False
    link(place, found.path.parent)
    how = "from the cache" if found.is_hit else "into the cache"
    _say(f"{wanted.uri}: {how}, {_amount(found.files, found.total_bytes, start)} -> {found.path}")
    return True


def _say(text: str) -> None:
    click.echo(without_secrets(text))


def _amount(files: int, total_bytes: int, start: float) -> str:
    what = "" if files == 1 else f"{files} files, "
    return f"{what}{total_bytes} bytes in {time.monotonic() - start:.1f} s"


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker fetch --kind cpu --max-seconds 600\n\n"
    "Exit status: 0 all is there, digests compared; 1 with what is missing and what to do; 2 for a wrong command line.",
)
@click.option(
    "--deployment",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEPLOYMENT_FILE,
    show_default=True,
    help="The ModelDeployment, as JSON.",
)
@click.option("--kind", envvar=ENV_KIND, default="", help="Only artifacts for this kind of accelerator.")
@click.option(
    "--max-seconds", type=click.FloatRange(min=1), default=3600, show_default=True, help="Time for all files."
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=ENV_CACHE,
    default=None,
    help="Folder of the weights that the pods of this node share; default: none.",
)
@click.option(
    "--cache-bytes",
    type=click.IntRange(min=1),
    envvar=ENV_CACHE_BYTES,
    default=100 << 30,
    show_default=True,
    help="What it may hold; the least recently used weights go.",
)
@click.option(
    "--cache-keep-free-percent",
    type=click.IntRange(0, 99),
    envvar=ENV_CACHE_KEEP_FREE,
    default=10,
    show_default=True,
    help="Of its file system that much stays free.",
)
@click.option("--termination-log", type=click.Path(path_type=Path), default=TERMINATION_LOG, hidden=True)
def command(file: Path, kind: str, max_seconds: float, termination_log: Path, **options: Any) -> None:
    """Download the artifacts that are not mounted and put each in its place; check the digests of all."""
    try:
        deployment = parse_deployment(msgspec.json.decode(file.read_bytes()))
        cache = _cache(**options)
        asyncio.run(fetch_all(artifacts_of(deployment, kind), policy_of(os.environ), max_seconds, cache))
    except (OSError, msgspec.MsgspecError, FetchError) as error:
        message = f"{file}: {error}" if isinstance(error, msgspec.MsgspecError) else str(error)
        with contextlib.suppress(OSError):  # outside a pod there is none
            termination_log.write_bytes(presentable(message, TERMINATION_MESSAGE_MAX_BYTES).encode())
        raise click.ClickException(message) from error


def _cache(cache: Path | None, cache_bytes: int, cache_keep_free_percent: int) -> WeightsCache | None:
    if cache is None:
        return None
    os.umask(0o002)  # pods of other users share it by their group, fsGroup
    return WeightsCache(cache, Bounds(max_bytes=cache_bytes, keep_free=cache_keep_free_percent / 100), _say)
