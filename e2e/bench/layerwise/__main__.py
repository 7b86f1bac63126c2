"""`python -m e2e.bench.layerwise served | networks | orders | decisions`; as `python -m e2e.bench layerwise ..` too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from e2e.bench.layerwise.places import LocalPlace, Place, cluster_place
from e2e.bench.layerwise.served import ALL_MODES, MODES, Figures, Load, as_json, measure, write_models

_MIB = 1 << 20


@click.group()
def cli() -> None:
    """Layer-by-layer serving: live under load, beside the other ways to run networks, and what a decision costs."""


@cli.command()
@click.option("--where", type=click.Choice(["local", "cluster"]), default="local", show_default=True)
@click.option("--modes", default=",".join(MODES), show_default=True)
@click.option("--seconds", type=float, default=24.0, show_default=True, help="Per mode: steady, a model added, a kill.")
@click.option("--callers", type=int, default=2, show_default=True, help="Per model.")
@click.option("--memory", type=int, default=192, show_default=True, help="MiB for weights; the models have 400 MB.")
@click.option("--whole-memory", type=int, default=520, show_default=True, help="MiB of the whole process in mode Off.")
@click.option("--cpus", type=float, default=1.5, show_default=True, help="Of the cluster's node.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=None, help="Write all figures to this file.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a bar is missed.")
def served(modes: str, path: Path | None, **options: Any) -> None:
    """Four models of 100 MB in memory for two, in each mode under one load, with a model added and a kill."""
    names = _some_of(modes, ALL_MODES)
    load = Load(
        seconds=options["seconds"],
        callers=options["callers"],
        memory=options["memory"] * _MIB,
        whole_memory=options["whole_memory"] * _MIB,
    )
    found: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="batchwright-bench-") as folder:
        files = write_models(Path(folder))
        with _place(options["where"], files, options["cpus"]) as place:
            for mode in names:
                found.append(asyncio.run(measure(place, files, mode, load)))
                _tell(found[-1])
                if path is not None:
                    path.write_text(as_json(found))
    if options["strict"] and not all(all(each.bars.values()) for each in found if each.mode != "Off"):
        raise SystemExit(1)


@cli.command()
@click.option("--seconds", type=float, default=100.0, show_default=True, help="Of runs, all conditions together.")
@click.option("--memory", type=int, default=32, show_default=True, help="MiB for weights in flight.")
@click.option("--requests", type=int, default=3, show_default=True, help="Per network and run.")
@click.option("--threads", type=int, default=None, help="Compute threads; default: all cores.")
@click.option("--reads", type=click.Choice(["direct", "cold", "cached"]), default="direct", show_default=True)
@click.option("--only", default="", help="Some of minilm, detector, recognizer, resnet50; default: all four.")
@click.option("--conditions", default="quiet,neighbours", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=None, help="Networks, kept for the next time.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=None, help="Write all figures to this file.")
def networks(memory: int, only: str, conditions: str, path: Path | None, folder: Path | None, **options: Any) -> None:
    """MiniLM, PP-OCR's detector and recognizer, ResNet-50 at once: streamed, FIFO, whole, sleep/wake, all resident."""
    from e2e.bench.layerwise.networks import CONDITIONS, ROWS, Trials, compare
    from e2e.cluster.machine.paths import cache_folder

    def told(facts: dict[str, Any]) -> None:
        if path is not None:
            path.write_text(json.dumps(facts, indent=2))

    trials = Trials(
        networks=_some_of(only or ",".join(ROWS), ROWS),
        conditions=_some_of(conditions, CONDITIONS),
        budget=memory * _MIB,
        **options,
    )
    facts = compare(folder or cache_folder() / "layerwise", trials, told)
    if facts["readsUsed"] != facts["reads"]:
        click.echo(f"the file system cannot do {facts['reads']} reads: they were {facts['readsUsed']}")
    for name, each in facts["networks"].items():
        click.echo(
            f"{name:10} {each['weightBytes'] / 1e6:6.1f} MB in {each['units']} units, {each['rows']} rows: compute "
            f"{each['computeMs']:.0f} ms, fetch {each['fetchMs']:.0f} ms"
        )
    for condition, found in facts["conditions"].items():
        ways = found["ways"]
        click.echo(
            f"{condition} (fastest and median of {ways['balanced']['runs']} runs, load {found['load']:.1f} in the end):"
        )
        for way, each in ways.items():
            replay = each["replayErrorMedian"]
            told_of = "" if replay is None else f"  replay error {replay:.1%}, {each['replayErrorMost']:.1%} at most"
            ratios = f"x{each['overBalancedFastest']:.2f} x{each['overBalancedMedian']:.2f}"
            other = "" if each["bitwiseEqual"] else "  OTHER OUTPUTS"
            times = f"{each['fastestSeconds']:7.3f} {each['medianSeconds']:7.3f} s"
            click.echo(f"  {way:12} {times}  {ratios}{other}{told_of}")
    if not all(each["bitwiseEqual"] for found in facts["conditions"].values() for each in found["ways"].values()):
        raise SystemExit("outputs differ from way to way")


def _some_of(text: str, known: Collection[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"there is no {unknown[0]!r}; choose from {', '.join(known)}")
    return names


@cli.command()
@click.option("--instances", type=click.IntRange(1), default=6, show_default=True, help="Per mix and memory.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=None, help="Write all figures to this file.")
def orders(instances: int, path: Path | None) -> None:
    """What orders of layers reach of what is possible (simulated): closed loops, and one batch of two networks each."""
    from e2e.bench.layerwise.orders import measured

    found = measured(instances, click.echo)
    if path is not None:
        path.write_text(json.dumps(found, indent=2))


@cli.command()
def decisions() -> None:
    """What one decision costs, by the number of models."""
    from e2e.bench.layerwise.decisions import main

    main()


@contextlib.contextmanager
def _place(where: str, files: Mapping[str, Path], cpus: float) -> Iterator[Place]:
    if where == "local":
        yield LocalPlace()
        return
    with cluster_place(files, cpus=cpus) as place:
        yield place


def _tell(figures: Figures) -> None:
    click.echo(f"{figures.mode} on {figures.place}, {figures.seconds:.0f} s:")
    for model, rate in figures.per_second.items():
        click.echo(
            f"  {model:9} {rate:7.2f}/s  p50 {figures.p50_ms[model]:6.0f} ms  p99 {figures.p99_ms[model]:6.0f} ms"
        )
    assert figures.added is not None
    assert figures.killed is not None
    late = max(figures.added.late.values())
    click.echo(f"  a model added in {figures.load_seconds:.1f} s: others late for {late:.0f} s at most")
    first = ", ".join(f"{model} {seconds:.2f}" for model, seconds in figures.killed.first.items())
    click.echo(f"  a kill: first answers after {first} s; late for {max(figures.killed.late.values()):.0f} s at most")
    click.echo(f"  failed {len(figures.failed)}, wrong {figures.wrong}, not ready {figures.unready} times")
    for failure in figures.failed[:3]:
        click.echo(f"    {failure}")
    for bar, met in figures.bars.items():
        click.echo(f"  {'ok    ' if met else 'MISSED'} {bar}")


if __name__ == "__main__":
    cli()
