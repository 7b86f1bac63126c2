"""`batchwright-worker layerwise simulate | ablate`: tables of an NPU model under pairs of networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from batchwright_worker.layerwise.core.steps import seconds_of_steps
from batchwright_worker.layerwise.tools.ablation import STUDIES, study_rows
from batchwright_worker.layerwise.tools.npu_model import Npu
from batchwright_worker.layerwise.tools.pairs import (
    COLUMNS,
    LATENCY_PAIRS,
    MIXED_PAIRS,
    SAME_ENGINE_PAIRS,
    PairLatency,
    PairThroughput,
    geometric_mean,
    pair_latency,
    pair_throughput,
)
from batchwright_worker.layerwise.tools.published_networks import NETWORKS, REFERENCE_MICROSECONDS, layers_of

__all__ = ["ablate", "simulate"]

DIFFERENCES = """\
The paper (HPCA 2021, "Layerweaver") reports +60.1 % over its 16 pairs, from its own simulator of its own processor.
Here layer times come from tiles of a weight-stationary array and from 8-bit weights over the bandwidth reached: no bank
conflicts, no traffic for activations; batch 1 with 32 tokens, one processor for all pairs, requests always waiting.
That makes other shares r = (shorter / longer) of a network's two times, which set the bound: (2-ra-rb) / (1-ra*rb).
"""


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker layerwise simulate --memory-mib 32\n\n"
    "Exit status: 0; 1 with a sentence where it cannot be done; 2 for a wrong command line.",
)
@click.option("--memory-mib", default=16, show_default=True, type=click.IntRange(min=1), help="On-chip memory.")
@click.option("--rounds", default=24, show_default=True, type=click.IntRange(min=4), help="Runs of each network.")
@click.option("--same-engine", is_flag=True, help="Also pairs bound by the same engine: nothing to gain there.")
@click.option("--latency", is_flag=True, help="Also latencies of three pairs under Poisson arrivals.")
@click.option("--load", default=0.95, show_default=True, type=click.FloatRange(0.05, 2), help="Load for --latency.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0), help="Of the arrivals.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the throughput as bars (.png, .svg or .pdf; needs the extra batchwright[plot]).",
)
def simulate(  # noqa: PLR0913 - one parameter per option
    *,
    memory_mib: int,
    rounds: int,
    same_engine: bool,
    latency: bool,
    load: float,
    seed: int,
    as_json: bool,
    plot: Path | None,
) -> None:
    """System throughput of 16 pairs of networks, one compute-bound and one memory-bound, on an NPU model.

    1.0 is one network at a time. Beside the policies: FIFO and round robin, and the bound of a linear program that no
    order of layers can beat.
    """
    npu = Npu(memory_bytes=memory_mib * 2**20)
    pairs = [*MIXED_PAIRS, *(SAME_ENGINE_PAIRS if same_engine else ())]
    rows = [pair_throughput(pair, npu, rounds=rounds) for pair in pairs]
    generator = np.random.default_rng(seed)
    waits = [pair_latency(pair, npu, generator, load=load) for pair in LATENCY_PAIRS] if latency else []
    if plot is not None:
        from batchwright_worker.layerwise.tools.charts import draw_bars

        draw_bars({" + ".join(row.pair): {**row.columns, "bound": row.bound} for row in rows}, plot)
    if as_json:
        click.echo(msgspec.json.encode({"pairs": rows, "latencies": [_latency_facts(wait) for wait in waits]}))
        return
    console = _console()
    console.print(_networks_table(npu))
    console.print(_pairs_table(rows))
    if waits:
        console.print(_latency_table(waits, load))
    console.print(DIFFERENCES, highlight=False)


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker layerwise ablate --rounds 4\n\n"
    "Exit status: 0; 1 with a sentence where it cannot be done; 2 for a wrong command line.",
)
@click.option("--rounds", default=12, show_default=True, type=click.IntRange(min=4), help="Runs of each network.")
@click.option(
    "--study",
    "titles",
    multiple=True,
    type=click.Choice([study.title for study in STUDIES]),
    help="Only this table (may be given again).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def ablate(*, rounds: int, titles: Sequence[str], as_json: bool) -> None:
    """What each part of the rule is worth: guard, N, tie-break by IM, theta, prefetch, budget.

    Geometric means of the system throughput over the 16 pairs of `simulate`, one thing changed at a time.
    """
    console = _console()
    document = {}
    for study in [study for study in STUDIES if study.title in (titles or [study.title])]:
        rows = list(study_rows(study, rounds=rounds))
        document[study.title] = {budget: {**means, "bound": bound} for budget, means, bound in rows}
        if as_json:
            continue
        table = _table(study.title, "memory", [*study.columns, "bound"])
        for budget, means, bound in rows:
            table.add_row(budget, *_figures([*means.values(), bound]))
        console.print(table)
    if as_json:
        click.echo(msgspec.json.encode(document))


def _console() -> Console:
    """The terminal; into a pipe or file, wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def _networks_table(npu: Npu) -> Table:
    table = _table("networks, microseconds", "network", ["layers", "compute", "memory", "given: compute", "memory"])
    for network in NETWORKS:
        layers = layers_of(network, npu)
        compute = seconds_of_steps(sum(layer.compute for layer in layers)) * 1e6
        memory = seconds_of_steps(sum(layer.fetch for layer in layers)) * 1e6
        given = REFERENCE_MICROSECONDS[network]
        table.add_row(network, str(len(layers)), f"{compute:.1f}", f"{memory:.1f}", *map(str, given))
    return table


def _pairs_table(rows: Sequence[PairThroughput]) -> Table:
    table = _table("system throughput", "pair", [*COLUMNS, "bound", "balanced / bound"])
    for row in rows:
        share = row.columns["balanced"] / row.bound
        table.add_row(" + ".join(row.pair), *_figures([*row.columns.values(), row.bound, share]))
    mixed = rows[: len(MIXED_PAIRS)]
    means = [geometric_mean([row.columns[name] for row in mixed]) for name in COLUMNS]
    bound = geometric_mean([row.bound for row in mixed])
    share = means[list(COLUMNS).index("balanced")] / bound
    table.add_row("geometric mean of 16", *_figures([*means, bound, share], digits=3), style="bold")
    return table


def _latency_table(waits: Sequence[PairLatency], load: float) -> Table:
    headings = ["ANTT FIFO", "ANTT balanced", "ratio", "p99 FIFO, ms", "p99 balanced, ms", "ratio"]
    table = _table(f"latency at load {load:g}", "pair", headings)
    for wait in waits:
        table.add_row(" + ".join(wait.pair), *_figures(list(_latency_facts(wait).values())[1:]))
    return table


def _latency_facts(wait: PairLatency) -> dict[str, str | float]:
    return {
        "pair": " + ".join(wait.pair),
        "anttFifo": wait.fifo.antt,
        "anttBalanced": wait.balanced.antt,
        "anttRatio": wait.antt_ratio,
        "p99FifoMs": seconds_of_steps(wait.fifo.percentile(0.99)) * 1e3,
        "p99BalancedMs": seconds_of_steps(wait.balanced.percentile(0.99)) * 1e3,
        "p99Ratio": wait.p99_ratio,
    }


def _table(title: str, first: str, others: Sequence[str]) -> Table:
    table = Table(title=title)
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _figures(values: Sequence[str | float], digits: int = 2) -> list[str]:
    return [value if isinstance(value, str) else f"{value:.{digits}f}" for value in values]
