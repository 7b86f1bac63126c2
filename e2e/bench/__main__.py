"""The command line: `python -m e2e.bench serving`, `noop`, `operator`, `ocr`, `jobs`, `layerwise`."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def cli() -> None:
    """Side-by-side performance tables."""


@cli.command()
@click.option("--only", default="", help="Sections, separated by commas; default: all.")
@click.option("--servers", default="batchwright,mosec,plain", show_default=True, help="Which servers the tables show.")
@click.option("--quick", is_flag=True, help="Fewer seconds per run: a few minutes in all.")
@click.option("--pin/--no-pin", default=True, show_default=True, help="Server and client on a CPU each.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=None, help="Write everything to this file.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a bar is missed.")
def serving(only: str, servers: str, quick: bool, pin: bool, path: Path | None, strict: bool) -> None:
    """The tables of serving.md: Batchwright beside Mosec and a plain greedy batcher, on one machine, in one run."""
    from e2e.bench.report import Report
    from e2e.bench.sections import SECTIONS
    from e2e.bench.sections.bench import Bench
    from e2e.bench.servers import Cores

    wanted = _chosen(only, tuple(SECTIONS), "section")
    bench = Bench(
        report=Report(quick=quick),
        cores=Cores.apart() if pin else Cores(),
        quick=quick,
        servers=_chosen(servers, ("batchwright", "mosec", "plain"), "server"),
    )
    try:
        for name in wanted:
            bench.report.progress(f"== {name}")
            SECTIONS[name](bench)
    finally:
        met = bench.report.show_bars()
        if path is not None:
            bench.report.write(path)
    if strict and not met:
        raise SystemExit(1)


def _passed_on(name: str, module: str, about: str) -> None:
    """A bench with a command line of its own."""

    @cli.command(name, help=about, context_settings={"ignore_unknown_options": True}, add_help_option=False)
    @click.argument("arguments", nargs=-1)
    def command(arguments: tuple[str, ...]) -> None:
        import subprocess
        import sys

        raise SystemExit(subprocess.call([sys.executable, "-m", module, *arguments]))


_passed_on("noop", "e2e.bench.noop", "A model that does nothing, beside Mosec: what the front end and the IPC cost.")
_passed_on("operator", "e2e.bench.api_client", "The operator's rates and recoveries beside another revision's.")
_passed_on("scale", "e2e.bench.scale", "The operator on a thousand simulated nodes, beside the cluster's own ceiling.")
_passed_on("ocr", "e2e.bench.ocr_local", "OCR in local mode beside RapidOCR page by page.")
_passed_on("jobs", "e2e.bench.jobs", "A job of many small items in local mode, beside a script, with the same output.")
_passed_on("beside", "e2e.bench.jobs.beside", "Sentences and pictures beside Ray Data, Daft and sentence-transformers.")

_passed_on("layerwise", "e2e.bench.layerwise", "Layer by layer: served live with a kill, real networks, decisions.")


def _chosen(given: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given.split(",") if name.strip()) or known
    for name in names:
        if name not in known:
            raise click.BadParameter(f"there is no {what} {name!r}; choose from {', '.join(known)}")
    return names


if __name__ == "__main__":
    cli()
