"""`batchwright-worker runtime`: the supervisor of one device's runtime process."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import click

from batchwright_worker.api.formats import FORMATS, TRITON_REPOSITORY
from batchwright_worker.api.names import DEPLOYMENT_FILE, FETCHED_DIR
from batchwright_worker.fetch.cache.holding import hold_linked
from batchwright_worker.host.process import die_with_parent
from batchwright_worker.ipc.supervision import listen_for_requests, supervision_socket
from batchwright_worker.runtime.supervisor import Supervisor, listen


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker runtime --socket /run/batchwright/0.sock\n\n"
    "Exit status: 0 after SIGTERM; 2 for a wrong command line. Processes on the device that end are started anew.",
)
@click.option("--socket", "path", required=True, type=click.Path(path_type=Path), help="Unix socket to listen on.")
@click.option(
    "--deployment",
    show_default=True,
    default=DEPLOYMENT_FILE,
    type=click.Path(path_type=Path),
    help="The ModelDeployment; only its formats are read, to import their libraries ahead of need.",
)
@click.option("--parent", default=0, hidden=True, help="Die with this process (local mode).")
def command(path: Path, deployment: Path, parent: int) -> None:
    """Hold models on one device and run batches for the sidecar that connects to SOCKET."""
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO").upper(), format="%(asctime)s runtime %(message)s")
    if parent:
        die_with_parent(parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    hold_linked(Path(FETCHED_DIR))
    announce_layerwise(deployment)
    serve = "batchwright_worker.runtime.process:serve"
    with listen(path) as listener, listen_for_requests(path) as requests:
        try:
            raise SystemExit(Supervisor(listener, requests, serve, libraries(deployment)).run())
        finally:
            path.unlink(missing_ok=True)
            supervision_socket(path).unlink(missing_ok=True)


def announce_layerwise(deployment: Path) -> None:
    """Leave the deployment's layerwise section, if its mode is not Off, to the processes that serve."""
    import msgspec

    from batchwright_worker.layerwise.serving.settings import ENV_LAYERWISE, settings_of

    if deployment.is_file() and (settings := settings_of(msgspec.json.decode(deployment.read_bytes()))) is not None:
        os.environ[ENV_LAYERWISE] = msgspec.json.encode(settings).decode()


def libraries(deployment: Path) -> list[str]:
    """What the formats of this deployment import; nothing where there is no such file."""
    import msgspec

    if not deployment.is_file():
        return []
    spec = msgspec.json.decode(deployment.read_bytes()).get("spec", {})
    pairs = [(model, artifact) for model in spec.get("models", []) for artifact in model.get("artifacts", [])]
    formats = {_format(model, artifact) for model, artifact in pairs} & FORMATS.keys()
    found = {library for name in formats for library in FORMATS[name].preload}
    if (spec.get("layerwise") or {}).get("mode", "Off") != "Off":
        # What a spare process has imported, its models need not wait for.
        found.add("batchwright_worker.runtime.layerwise_models")
        divisible = (FORMATS[name] for name in formats if FORMATS[name].divisible)
        found |= {f"batchwright_worker.layerwise.networks.{one.loader}" for one in divisible}
    return sorted(found)


def _format(model: dict[str, Any], artifact: dict[str, Any]) -> str:
    """The format that is loaded: of a Triton model repository that of the model in it, where this can be told."""
    name: str = artifact.get("format", "")
    if name != TRITON_REPOSITORY:
        return name
    import msgspec

    from batchwright_worker.api.model import Model
    from batchwright_worker.artifacts.triton.artifact import format_in_repository

    try:
        declared = msgspec.convert({**model, "artifacts": [artifact]}, Model)
    except msgspec.ValidationError:  # its sidecar does not even start then
        return name
    return format_in_repository(declared, declared.artifacts[0]) or name
