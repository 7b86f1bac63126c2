"""`batchwright-worker layerwise schedule`: one instance in, its schedule out, so that anyone can check the rule."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from batchwright_worker.layerwise.core.values import LayerwiseError
from batchwright_worker.layerwise.tools.instance import Schedule, parse, scheduled

__all__ = ["command"]


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker layerwise schedule --instance instance.json --plot schedule.svg\n\n"
    "Exit status: 0; 1 with a sentence where it cannot be done; 2 for a wrong command line.",
)
@click.option(
    "--instance",
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="JSON file with budgetBytes, policy, skipLimit, prefetch, models and requests ('-': standard input).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the schedule as one JSON document.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw both engines over time (.png, .svg or .pdf; needs the extra batchwright[plot]).",
)
def command(instance: Path, *, as_json: bool, plot: Path | None) -> None:
    """Schedule one instance and print where every layer lies on both engines.

    \b
    {"budgetBytes": 6, "prefetch": "whole", "policy": "literal", "skipLimit": 1,
     "models": {"A": [{"compute": 4, "fetch": 1, "bytes": 1}],
                "M": [{"compute": 1, "fetch": 4, "bytes": 4}]},
     "requests": [{"model": "A", "arrival": 0}, {"model": "M", "arrival": 0}]}

    Times are in the instance's own unit. prefetch: whole, fluid. policy: literal, balanced, fifo, round_robin.
    skipLimit 0: no guard; without it, the limit follows from the budget. Layers are never split here: one larger than
    the budget is refused.
    """
    with click.open_file(str(instance), "rb") as file:
        document = file.read()
    try:
        schedule = scheduled(parse(document))
    except LayerwiseError as error:
        raise click.ClickException(str(error)) from error
    if plot is not None:
        from batchwright_worker.layerwise.tools.charts import draw_engines

        draw_engines(schedule.layers, plot)
    if as_json:
        click.echo(msgspec.json.encode(schedule))
    else:
        Console().print(_table(schedule))


def _table(schedule: Schedule) -> Table:
    """For people: one row per layer."""
    table = Table(
        caption=f"makespan {schedule.makespan}, idle: compute {schedule.compute_idle}, memory {schedule.memory_idle}"
    )
    for heading in ("model", "request", "layer", "fetch", "compute", "IC", "IM", "skips"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for layer in schedule.layers:
        table.add_row(
            layer.model,
            str(layer.request),
            str(layer.layer),
            f"{layer.fetch_start:g} - {layer.fetch_end:g}",
            f"{layer.compute_start:g} - {layer.compute_end:g}",
            f"{layer.compute_idle:g}",
            f"{layer.memory_idle:g}",
            str(layer.skips),
        )
    return table
