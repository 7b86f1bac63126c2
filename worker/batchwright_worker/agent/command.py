"""`batchwright-worker agent`: serve this node's readings at /metrics."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from batchwright_worker.agent.cgroups import CgroupError
from batchwright_worker.agent.cpu import CpuSource, find_node
from batchwright_worker.agent.exposition import exposition, text
from batchwright_worker.agent.readings import ReadingSource
from batchwright_worker.api.accelerators import VENDORS
from batchwright_worker.api.names import AGENT_PORT, ENV_NODE


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker agent --port 9105 --node fast\n\n"
    "Exit status: 0 after SIGTERM; 1 where the node's cgroups cannot be read; 2 for a wrong command line.",
)
@click.option("--port", default=AGENT_PORT, show_default=True, type=click.IntRange(0, 65535), help="Port of /metrics.")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option("--node", envvar=ENV_NODE, default="", help="Name of the node, for the labels.")
@click.option("--sysfs", envvar="BATCHWRIGHT_HOST_CGROUP", default="/sys/fs/cgroup", show_default=True,
              type=click.Path(path_type=Path), help="Where the host's cgroups are mounted.")  # fmt: skip
@click.option("--proc", envvar="BATCHWRIGHT_HOST_PROC", default="/proc", show_default=True,
              type=click.Path(path_type=Path), help="Where the host's /proc is mounted.")  # fmt: skip
@click.option("--cgroup-root", envvar="BATCHWRIGHT_CGROUP_ROOT",
              help="The node's cgroup, e.g. /.  [default: found from the agent's own]")  # fmt: skip
@click.option("--allocatable-cpu-millis", envvar="BATCHWRIGHT_ALLOCATABLE_CPU_MILLIS", type=click.IntRange(min=1),
              help="Allocatable CPU of the node, where its cgroups do not tell (version 2, no quota).")  # fmt: skip
def command(  # noqa: PLR0913, PLR0917 - one parameter per option
    port: int,
    host: str,
    node: str,
    sysfs: Path,
    proc: Path,
    cgroup_root: str | None,
    allocatable_cpu_millis: int | None,
) -> None:
    """Export utilization of this node's processors as Prometheus metrics (method A3)."""
    cores = allocatable_cpu_millis / 1000 if allocatable_cpu_millis else None
    try:
        found = find_node(sysfs, proc, root=cgroup_root, allocatable_cores=cores)
        sources: list[ReadingSource] = [CpuSource(found)]
    except (CgroupError, OSError) as error:
        raise click.ClickException(str(error)) from error
    by_vendor = vendor_sources()
    sources += [each for each in by_vendor.values() if each is not None]
    cpu = f"{found.cores:g} cores counted at {found.counted.usage}, {found.memory_bytes >> 20} MiB"
    drivers = [f"{vendor} driver {'found' if source else 'not found'}" for vendor, source in by_vendor.items()]
    click.echo(f"agent of {node or 'this machine'}: {', '.join([cpu, *drivers])}", err=True)
    serve(node, sources, host, port)


def vendor_sources() -> dict[str, ReadingSource | None]:
    """Name of each vendor that the agent can read -> its source, None without a driver."""
    modules = {each.name: each.agent_source for each in VENDORS if each.agent_source}
    return {
        vendor: importlib.import_module(f"batchwright_worker.agent.{module}").find_source()
        for vendor, module in modules.items()
    }


def serve(node: str, sources: Sequence[ReadingSource], host: str, port: int) -> None:
    """Serves until SIGTERM; says where on standard output."""
    app = application(exposition(node, sources))
    web.run_app(app, host=host, port=port, access_log=None, print=lambda line: print(line, file=sys.stderr, flush=True))


def application(registry: CollectorRegistry) -> web.Application:
    """GET /metrics (and /healthz, which reads nothing)."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=text(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    return app
