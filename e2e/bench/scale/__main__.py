"""python -m e2e.bench scale: the cases, a table, JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from e2e.bench.scale import bed as beds
from e2e.bench.scale.cases import CASES, Result
from e2e.bench.scale.decision import decision
from e2e.bench.scale.foreign import foreign

NAMES = ("decision", *CASES, "foreign")


@click.command()
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Only these cases (with `bed`, for ratios).")
@click.option("--quick", is_flag=True, help="Fewer pods and seconds: under five minutes.")
@click.option("--nodes", default=1000, show_default=True, help="Simulated nodes.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=None, help="Write the cases to this file.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a case is not as asked.")
def main(only: tuple[str, ...], quick: bool, nodes: int, path: Path | None, strict: bool) -> None:
    """The operator in a cluster of a thousand simulated nodes: real API server, scheduler and controller manager."""
    wanted = [name for name in NAMES if not only or name in only]
    began, found = time.monotonic(), list[Result]()

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", file=sys.stderr, flush=True)

    def take(result: Result) -> None:
        found.append(result)
        say(f"{'ok  ' if result.ok else 'MISS'} {result.name}: {result.seen}")
        if path is not None:
            path.write_text(json.dumps({"quick": quick, "cases": [each.as_dict() for each in found]}, indent=1))

    def take_all(results: Iterable[Result]) -> None:
        for result in results:
            take(result)

    with tempfile.TemporaryDirectory(prefix="batchwright-scale-") as scratch:
        folder = Path(scratch)
        if "decision" in wanted:
            take_all(decision(quick=quick))
        on_bed = [name for name in wanted if name in CASES]
        if on_bed:
            with beds.made(folder, nodes=nodes, quick=quick, say=say) as bed:
                for name in on_bed:
                    say(f"== {name}")
                    try:
                        take_all(CASES[name](bed))
                    except TimeoutError as error:
                        take(Result(name=name, asked="to end", seen=str(error), ok=False))
                        bed.clean()
        if "foreign" in wanted:
            say("== foreign")
            take_all(foreign(folder, quick=quick, say=say))
    show(found)
    if strict and not all(each.ok for each in found):
        raise SystemExit(1)


def show(found: list[Result]) -> None:
    """The table."""
    table = Table(title="The operator in a cluster of a thousand nodes", title_justify="left")
    for name in ("case", "asked for", "seen", ""):
        table.add_column(name)
    for each in found:
        table.add_row(each.name, each.asked, each.seen, "pass" if each.ok else "MISS")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
