"""`kubectl batchwright top` and `bench`: how fast processors are, how busy, and what was measured of them."""

from __future__ import annotations

import datetime

import click

from batchwright_operator.errors import NotFound, NotServed
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, Raw
from batchwright_operator.plugin.arguments import EXIT_STATUS, name_argument
from batchwright_operator.plugin.observe import read_once
from batchwright_operator.plugin.output import (
    Form,
    TableColumn,
    age,
    one_line,
    output_option,
    print_document,
    print_table,
)
from batchwright_operator.plugin.overview.processors import processors
from batchwright_operator.plugin.target import ClusterTarget, run_with_client
from batchwright_operator.processors.processor import processors_of, render_entry
from batchwright_worker.api.names import ANNOTATION_REBENCHMARK
from batchwright_worker.dashboard.overview import ProcessorView

_TOP = (
    TableColumn(title="NODE"),
    TableColumn(title="PROCESSOR", rank=1),
    TableColumn(title="PRODUCT", rank=6),
    TableColumn(title="IMAGES/S", right=True),
    TableColumn(title="BUSY", right=True),
    TableColumn(title="MEMORY", right=True, rank=2),
    TableColumn(title="SAMPLE", right=True, rank=5),
    TableColumn(title="PODS", right=True, rank=3),
)
_TABLE = (
    TableColumn(title="BATCH SIZE", right=True),
    TableColumn(title="IMAGES/S", right=True),
    TableColumn(title="SERVICES AT ONCE", right=True),
)


@click.command(
    epilog="\b\nExamples:\n"
    "  kubectl batchwright top\n"
    "  kubectl batchwright top -o json\n\n"
    "Exit status: 0; 1 for what the cluster refuses; 2 for a wrong command line.",
)
@output_option
@click.pass_obj
def top(target: ClusterTarget, form: Form) -> None:
    """Every processor: how fast it is, how busy, and how many pods of models run on it."""

    seen = run_with_client(target, lambda client: read_once(client, target))
    for note in seen.unseen:
        click.echo(f"note: {one_line(note)}", err=True)
    found = processors(seen)
    if not print_document({"processors": found}, form):
        print_table(_TOP, [_row(each, seen.now) for each in found], form)


def _row(each: ProcessorView, now: float) -> list[str]:
    sample = "-" if each.sampled_at is None else f"{age(now - each.sampled_at)} ago"
    speed = each.reason if each.capacity is None else f"{each.capacity:.1f}"
    return [each.node, each.kind, each.product, speed, _share(each.utilization), _share(each.memory), sample,
            str(each.pods)]  # fmt: skip


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


@click.command(
    epilog="\b\nExamples:\n"
    "  kubectl batchwright bench node-a\n"
    "  kubectl batchwright bench node-a --again\n\n" + EXIT_STATUS,
)
@name_argument(ACCELERATOR_PROFILE, "node")
@click.option("--again", is_flag=True, help="Ask the operator for a new benchmark of this node.")
@output_option
@click.pass_obj
def bench(target: ClusterTarget, node: str, form: Form, *, again: bool) -> None:
    """The load tables of NODE."""
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    async def read(client: ApiClient) -> Raw:
        try:
            if not again:
                return await client.get(ACCELERATOR_PROFILE, "", node)
            patch = {"metadata": {"annotations": {ANNOTATION_REBENCHMARK: stamp}}}
            return await client.patch(ACCELERATOR_PROFILE, "", node, patch, style="merge")
        except NotServed:
            raise
        except NotFound as error:
            raise click.ClickException(
                f"there is no AcceleratorProfile {node}; `kubectl get accel` lists them"
            ) from error

    known = processors_of(run_with_client(target, read))
    if print_document({"node": node, "processors": [render_entry(each) for each in known.values()]}, form):
        return
    for processor in known.values():
        speed = (
            f"{processor.capacity:.1f} images/s" if processor.capacity else f"{processor.reason} {processor.message}"
        )
        click.echo(f"{click.style(one_line(processor.kind), bold=True)} {one_line(f'{processor.product}: {speed}')}")
        rows = [
            [str(row.batch_size), f"{row.images_per_second:.1f}", str(row.max_services)] for row in processor.load_table
        ]
        print_table(_TABLE, rows, form)
    if again:
        click.echo(f"asked for a new benchmark of {node}; it runs when the node is idle")
