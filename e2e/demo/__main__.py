"""`python -m e2e.demo up | down`: what `make demo` and `make demo-down` run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from e2e import outlook
from e2e.cluster import ClusterError
from e2e.cluster.machine.locking import alone
from e2e.demo import report as reporting
from e2e.demo.kubectl import KubectlError, StillWaitingError
from e2e.demo.story import ROOT, Story, say
from e2e.demo.targets import Embedded, TargetError, choose

REPORT = ROOT / "build" / "demo" / "report.json"


@click.group(help=__doc__)
def main() -> None:
    """The command group."""


def _name_option(command: Callable[..., Any]) -> Callable[..., Any]:
    about = "Name of the cluster; another one leaves a demo of somebody else alone."
    option = click.option(
        "--name", default="demo", envvar="BATCHWRIGHT_CLUSTER", show_envvar=True, show_default=True, help=about
    )
    return option(command)


@main.command()
@_name_option
@click.option(
    "--report",
    "report_path",
    type=click.Path(path_type=Path),
    default=REPORT,
    envvar="BATCHWRIGHT_DEMO_REPORT",
    show_envvar=True,
    help="Where report.json goes.",
)
def up(name: str, report_path: Path) -> None:
    """Start the cluster and run the main job on it."""
    start = time.monotonic()
    target = choose(os.environ, name=name)
    say(f"== cluster: {type(target).__name__.lower()} {target.name} ({target.why})")
    if isinstance(target, Embedded):
        outlook.say_demo()
    # Two tellings on one cluster would delete each other's objects.
    with alone(f"demo-{name}", waiting=f"another make demo uses cluster {name}; waiting for it"):
        ready = target.up(say)
        say(f"   ready after {time.monotonic() - start:.0f} s")
        report = Story(kubectl=ready.kubectl, overlay=target.overlay(), build=ready.build).tell()
    reporting.save(report, report_path)
    say(reporting.as_text(report, kubectl=" ".join(ready.kubectl.argv()), kubeconfig=ready.kubectl.kubeconfig))
    say(f"Done in {time.monotonic() - start:.0f} s; report in {report_path}; `make demo-down` removes all of it.")


@main.command()
@_name_option
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
