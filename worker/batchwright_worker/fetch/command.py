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
from batchwright_worker.fetch.download import Wanted, download
from batchwright_worker.fetch.errors import FetchError, FetchRefused
from batchwright_worker.fetch.policy import FetchPolicy, policy_of
from batchwright_worker.fetch.sources import read_secret, source_of
from batchwright_worker.texts import presentable

LOCAL_SCHEMES = ("pvc", "file")


def artifacts_to_fetch(deployment: ModelDeployment, kind: str) -> list[Artifact]:
    """Those of one accelerator kind (of all if empty) that are not mounted; each URI once."""
    found = {
        artifact.uri: artifact
        for model in deployment.spec.models
        for artifact in model.artifacts
        if artifact.uri and kind in ("", artifact.accelerator) and artifact.uri.split(":")[0] not in LOCAL_SCHEMES
    }
    return list(found.values())


async def fetch_all(artifacts: Iterable[Artifact], policy: FetchPolicy, max_seconds: float) -> None:
    """One after the other, within a time for all. Raises FetchError."""
    try:
        async with asyncio.timeout(max_seconds):
            for artifact in artifacts:
                await _fetch(artifact, policy)
    except TimeoutError:
        raise FetchRefused(
            f"not done after {max_seconds:g} s: raise --max-seconds or use a nearer or smaller file"
        ) from None


async def _fetch(artifact: Artifact, policy: FetchPolicy) -> None:
    uri = artifact.uri or ""
    policy.check_uri(uri)
    secret = read_secret(artifact.secret_ref.name if artifact.secret_ref else None)
    wanted = Wanted(uri=uri, target=Path(weights_path(uri)), max_bytes=artifact.max_bytes, sha256=artifact.sha256 or "")
    start = time.monotonic()
    size = await download(wanted, source_of(uri, policy, secret), click.echo)
    click.echo(f"{uri}: {size} bytes in {time.monotonic() - start:.1f} s -> {wanted.target}")


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
    """Download the artifacts that are not mounted, check them, and put each in its place."""
    try:
        deployment = parse_deployment(msgspec.json.decode(file.read_bytes()))
        asyncio.run(fetch_all(artifacts_to_fetch(deployment, kind), policy_of(os.environ), max_seconds))
    except (OSError, msgspec.MsgspecError, FetchError) as error:
        message = f"{file}: {error}" if isinstance(error, msgspec.MsgspecError) else str(error)
        with contextlib.suppress(OSError):  # outside a pod there is none
            termination_log.write_bytes(presentable(message, TERMINATION_MESSAGE_MAX_BYTES).encode())
        raise click.ClickException(message) from error
