"""`batchwright-worker sidecar`: protocols, engine and runtimes' clients in one process and one event loop."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import click

from batchwright_worker.api.names import (
    CONTROL_PORT,
    DEPLOYMENT_FILE,
    ENV_CACHE,
    ENV_DISPATCH_LOG,
    ENV_KIND,
    ENV_LOAD_TABLE,
    ENV_REQUEST_MEMORY,
    ENV_SERVER_NAME,
    ENV_STUCK_SECONDS,
    ENV_WAS_READY,
    GRPC_PORT,
    HTTP_PORT,
    IPC_DIR,
    KIND_CPU,
    SCRIPTS_DIR,
    TOKEN_FILE,
)


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker sidecar --deployment deployment.json --http-port 8000 --grpc-port 8001\n\n"
    "Exit status: 0 after SIGTERM, when all is answered; 1 where it cannot begin; 2 for a wrong command line.",
)
@click.option(
    "--deployment",
    type=click.Path(path_type=Path),
    default=DEPLOYMENT_FILE,
    show_default=True,
    help="The ModelDeployment, as JSON.",
)
@click.option("--http-port", type=int, default=HTTP_PORT, show_default=True, help="0: any free port.")
@click.option("--grpc-port", type=int, default=GRPC_PORT, show_default=True, help="0: any free port.")
@click.option("--control-port", type=int, default=CONTROL_PORT, show_default=True, help="0: any free port.")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option(
    "--ipc-dir",
    type=click.Path(path_type=Path),
    default=IPC_DIR,
    show_default=True,
    help="Where runtimes' sockets are.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    default=TOKEN_FILE,
    show_default=True,
    help="Who may call the control port.",
)
@click.option("--scripts-dir", type=click.Path(path_type=Path), default=SCRIPTS_DIR, hidden=True)
@click.option("--server-url", default="", help="Where the deployment's open-inference server is; default: its port.")
@click.option("--server-grpc", default="", help="HOST:PORT of its gRPC side, with --server-url; default: HTTP only.")
@click.option("--runtimes", type=int, default=None, help="How many runtimes; default: count of the deployment's kind.")
@click.option(
    "--linger-seconds", type=float, default=5.0, show_default=True, help="Serve on for so long when draining."
)
@click.option("--drain-seconds", type=float, default=20.0, show_default=True, help="Longest time to finish requests.")
@click.option("--max-body-bytes", type=int, default=64 << 20, show_default=True, help="Longest request body.")
@click.option("--memory-bytes", type=int, default=None, help="Memory of this process; default: the container's limit.")
@click.option(
    "--request-memory-bytes",
    type=int,
    default=None,
    envvar=ENV_REQUEST_MEMORY,
    help="What requests may hold of it; more are refused with 503. Default: a share.",
)
@click.option("--header-seconds", type=float, default=10.0, show_default=True, help="Deadline for request headers.")
@click.option("--body-seconds", type=float, default=60.0, show_default=True, help="Deadline for request bodies.")
@click.option(
    "--stuck-seconds",
    type=click.FloatRange(min=1),
    default=30.0,
    show_default=True,
    envvar=ENV_STUCK_SECONDS,
    help="Not live (a restart) when the event loop has not turned for so long.",
)
@click.option(
    "--dispatch-log",
    type=click.Path(path_type=Path),
    default=None,
    envvar=ENV_DISPATCH_LOG,
    help="Write the scheduler's events and decisions to this file, for `batchwright-worker replay`.",
)
@click.option(
    "--dispatch-log-bytes", type=int, default=64 << 20, show_default=True, help="Then FILE becomes FILE.1, once."
)
@click.option(
    "--load-table",
    default="",
    envvar=ENV_LOAD_TABLE,
    help="The processor's load table as JSON (batchSize, imagesPerSecond, maxServices per row), for first batch sizes.",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), default=None, help="PEM: serve HTTP and gRPC by TLS.")
@click.option("--tls-key", type=click.Path(path_type=Path), default=None, help="PEM: the certificate's key.")
@click.option("--tls-client-ca", type=click.Path(path_type=Path), default=None, help="PEM: only clients signed by it.")
@click.option(
    "--shared-memory",
    is_flag=True,
    help="Read and write tensors in shared memory that callers of this machine register (/dev/shm).",
)
@click.option(
    "--http-front-end",
    type=click.Choice(["own", "uvicorn"]),
    default="own",
    show_default=True,
    help="What serves the HTTP port; uvicorn takes about twice the CPU per request.",
)
@click.option(
    "--cache", type=click.Path(path_type=Path), envvar=ENV_CACHE, default=None, hidden=True, help="Shown by /metrics."
)
@click.option(
    "--server-name",
    default="batchwright",
    show_default=True,
    envvar=ENV_SERVER_NAME,
    help="The name in the server's metadata; some of Triton's clients look for triton.",
)
@click.option("--parent", default=0, hidden=True, help="Die with this process (local mode).")
@click.option("--was-ready-file", type=click.Path(path_type=Path), envvar=ENV_WAS_READY, default=None, hidden=True)
@click.option("--ready-file", type=click.Path(path_type=Path), default=None, hidden=True, help="Ports, as JSON.")
def command(**options: object) -> None:
    """Serve the models of a pod: Open Inference Protocol, queues, batching."""
    import msgspec
    import uvloop

    from batchwright_worker.sidecar.process import run
    from batchwright_worker.sidecar.settings import Settings, SidecarFailed

    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO").upper(), format="%(asctime)s sidecar %(message)s")
    settings = msgspec.convert(
        {**options, "kind": os.environ.get(ENV_KIND, KIND_CPU)}, Settings, strict=False, dec_hook=_path
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings))
    except SidecarFailed as error:
        raise click.ClickException(str(error)) from error


def _path(kind: type, value: object) -> object:
    if issubclass(kind, Path):
        return Path(str(value))
    raise NotImplementedError(kind)
