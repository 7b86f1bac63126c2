"""`python -m e2e.demo up | down`: what `make demo` and `make demo-down` run."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from e2e.cluster import ClusterError
from e2e.demo import report as reporting
from e2e.demo.kubectl import KubectlError, StillWaitingError
from e2e.demo.story import ROOT, Story, say
from e2e.demo.targets import TargetError, choose

REPORT = ROOT / "build" / "demo" / "report.json"


@click.group(help=__doc__)
def main() -> None:
    """The command group."""


@main.command()
@click.option("--name", default="demo", show_default=True, help="Name of the cluster.")
@click.option(
    "--report", "report_path", type=click.Path(path_type=Path), default=REPORT, help="Where report.json goes."
)
def up(name: str, report_path: Path) -> None:
    """Start the cluster and run the main job on it."""
    start = time.monotonic()
    target = choose(os.environ, name=name)
    say(f"== cluster: {type(target).__name__.lower()} ({target.why})")
    ready = target.up(say)
    say(f"   ready after {time.monotonic() - start:.0f} s")
    report = Story(kubectl=ready.kubectl, overlay=target.overlay(), build=ready.build).tell()
    reporting.save(report, report_path)
    say(reporting.as_text(report, kubectl=" ".join(ready.kubectl.argv())))
    say(f"Done in {time.monotonic() - start:.0f} s; report in {report_path}; `make demo-down` removes all of it.")


@main.command()
@click.option("--name", default="demo", show_default=True, help="Name of the cluster.")
def down(name: str) -> None:
    """Remove the demo and its cluster."""
    target = choose(os.environ, name=name)
    say(f"== removing: {type(target).__name__.lower()} {target.name}")
    target.down()


if __name__ == "__main__":
    try:
        main()
    except (ClusterError, KubectlError, StillWaitingError, TargetError) as error:
        sys.exit(f"demo: {error}")
