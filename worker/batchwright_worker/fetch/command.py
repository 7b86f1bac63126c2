"""`batchwright-worker fetch`: the init container that brings artifacts into the pod."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from batchwright_worker.api.deployment import Artifact, ModelDeployment, parse_deployment
from batchwright_worker.api.names import (
    DEPLOYMENT_FILE,
    ENV_KIND,
    TERMINATION_LOG,
    TERMINATION_MESSAGE_MAX_BYTES,
    weights_path,
)
from batchwright_worker.artifacts.digest import digest_of
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.fetch.artifact import WantedArtifact, fetch_artifact
from batchwright_worker.fetch.at_once import at_once
from batchwright_worker.fetch.errors import FetchError, FetchRefused
from batchwright_worker.fetch.policy import FetchPolicy, policy_of
from batchwright_worker.fetch.sources import read_secret, store_of
from batchwright_worker.texts import presentable

LOCAL_SCHEMES = ("pvc", "file")


def artifacts_of(deployment: ModelDeployment, kind: str) -> list[Artifact]:
    """Those of one accelerator kind (of all if empty) that have files; each URI once."""
    found = {
        artifact.uri: artifact
        for model in deployment.spec.models
        for artifact in model.artifacts
        if artifact.uri and kind in ("", artifact.accelerator)
    }
    return list(found.values())


def is_mounted(artifact: Artifact) -> bool:
    """Is it where the runtime reads it, without a fetch?"""
    return (artifact.uri or "").split(":")[0] in LOCAL_SCHEMES


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


async def fetch_all(artifacts: Iterable[Artifact], policy: FetchPolicy, max_seconds: float) -> None:
    """A few at a time, within a time for all. Raises FetchError."""
    try:
        async with asyncio.timeout(max_seconds):
            await at_once(artifacts, lambda artifact: _fetch(artifact, policy))
    except TimeoutError:
        raise FetchRefused(
            f"not done after {max_seconds:g} s: raise --max-seconds or use a nearer or smaller file"
        ) from None


async def _fetch(artifact: Artifact, policy: FetchPolicy) -> None:
    uri, start = artifact.uri or "", time.monotonic()
    if is_mounted(artifact):
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
    fetched = await fetch_artifact(wanted, store_of(uri, policy, secret), click.echo)
    if fetched.already:
        click.echo(f"{uri}: is there already, {wanted.target}")
        return
    what = "" if fetched.files == 1 else f"{fetched.files} files, "
    click.echo(f"{uri}: {what}{fetched.total_bytes} bytes in {time.monotonic() - start:.1f} s -> {wanted.target}")


@click.command()
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
@click.option("--termination-log", type=click.Path(path_type=Path), default=TERMINATION_LOG, hidden=True)
def command(file: Path, kind: str, max_seconds: float, termination_log: Path) -> None:
    """Download the artifacts that are not mounted and put each in its place; check the digests of all."""
    try:
        deployment = parse_deployment(msgspec.json.decode(file.read_bytes()))
        asyncio.run(fetch_all(artifacts_of(deployment, kind), policy_of(os.environ), max_seconds))
    except (OSError, msgspec.MsgspecError, FetchError) as error:
        message = f"{file}: {error}" if isinstance(error, msgspec.MsgspecError) else str(error)
        with contextlib.suppress(OSError):  # outside a pod there is none
            termination_log.write_bytes(presentable(message, TERMINATION_MESSAGE_MAX_BYTES).encode())
        raise click.ClickException(message) from error
