"""`kubectl batchwright status`: the whole system on one screen, what is wrong first, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import click

from batchwright_operator.kube.client import ApiClient
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
from batchwright_operator.plugin.overview.cluster import overview
from batchwright_operator.plugin.target import ClusterTarget, run_with_client
from batchwright_worker.dashboard.history import queue_of, rate_of, system_values
from batchwright_worker.dashboard.overview import WORST_FIRST, DeploymentView, Finding, JobView, Level, Overview

SIGNS: Final[dict[Level, str]] = {"error": "✗", "warning": "!", "busy": "…", "ok": "✓", "idle": "-"}
COLORS: Final[dict[Level, str]] = {"error": "red", "warning": "yellow", "busy": "cyan", "ok": "green", "idle": "white"}
ONE_SCREEN: Final = 12
"""Findings, deployments and jobs that are shown without `-o wide`."""


@click.command(
    epilog="\b\nExamples:\n"
    "  kubectl batchwright status\n"
    "  kubectl batchwright status --exit-code -o json\n\n"
    "Exit status: 0; 1 for what the cluster refuses; 2 for a wrong command line; with --exit-code 3 to act on.",
)
@click.option("--exit-code", is_flag=True, help="Exit status 3 where something is to be acted on.")
@output_option
@click.pass_obj
def status(target: ClusterTarget, form: Form, *, exit_code: bool) -> None:
    """The whole system on one screen: what is wrong, and what to do. All namespaces, or that of -n."""

    async def read(client: ApiClient) -> Overview:
        return overview(await read_once(client, target))

    seen = run_with_client(target, read)
    if not print_document(seen, form):
        print_status(seen, form)
    if exit_code and seen.level == "error":
        sys.exit(3)


def print_status(seen: Overview, form: Form = None) -> None:
    """For people."""
    click.echo(f"{_sign(seen.level)} {click.style(one_line(seen.title), bold=True)}: {seen.headline}")
    click.echo("  " + " · ".join(totals(seen)))
    for note in seen.notes:
        click.echo(f"  note: {one_line(note)}")
    most = len(seen.findings) if form == "wide" else ONE_SCREEN
    for finding in seen.findings[:most]:
        click.echo()
        for line in told(finding):
            click.echo(line)
    if (hidden := len(seen.findings) - most + seen.findings_left_out) > 0:
        click.echo(f"\n  and {hidden} more: -o wide, or -o json")
    if seen.deployments:
        click.echo()
        print_table(_DEPLOYMENTS, [_deployment(each) for each in _first(seen.deployments, form)], form)
    if seen.jobs:
        click.echo()
        print_table(_JOBS, [_job(each, seen.time) for each in _first(seen.jobs, form)], form)


def _first(views: list, form: Form) -> list:  # type: ignore[type-arg]
    """Those that need a look first."""
    ordered = sorted(views, key=lambda each: WORST_FIRST.index(each.level))
    return ordered if form == "wide" else ordered[:ONE_SCREEN]


def totals(seen: Overview) -> Iterator[str]:
    """The numbers of the first lines."""
    busy, queue, rate, waiting = system_values(seen)
    mean = "" if busy is None else f", {busy:.0%} busy"
    yield f"{len({each.node for each in seen.processors})} nodes, {len(seen.processors)} processors{mean}"
    wanted, ready = sum(each.wanted for each in seen.deployments), sum(each.ready for each in seen.deployments)
    yield f"{len(seen.deployments)} deployments, {ready} of {wanted} replicas ready"
    if rate is not None:
        yield f"{rate:.0f} rows/s, {queue or 0:.0f} waiting"
    running = sum(each.level == "busy" for each in seen.jobs)
    yield f"{len(seen.jobs)} jobs, {running} under way"
    if waiting:
        yield f"{waiting:.0f} pods without a place"


def told(finding: Finding) -> list[str]:
    """A finding in three lines: what, why and what to do, the command that says more."""
    about = f"{finding.namespace}/{finding.name}" if finding.namespace else finding.name
    lines = [
        f"{_sign(finding.level)} {finding.kind} {click.style(one_line(about), bold=True)}: {one_line(finding.reason)}"
    ]
    lines += [f"    {one_line(finding.text)}"] if finding.text else []
    return [*lines, *([click.style(f"    $ {one_line(finding.command)}", dim=True)] if finding.command else [])]


def _sign(level: Level) -> str:
    return click.style(SIGNS[level], fg=COLORS[level], bold=True)


_DEPLOYMENTS = (
    TableColumn(title="MODELDEPLOYMENT"),
    TableColumn(title="STATE", rank=1),
    TableColumn(title="READY"),
    TableColumn(title="BATCH", rank=2),
    TableColumn(title="P95 MS", right=True, rank=3),
    TableColumn(title="ROWS/S", right=True, rank=4),
    TableColumn(title="WAITING", right=True, rank=5),
    TableColumn(title="NODES", rank=6),
)
_JOBS = (
    TableColumn(title="INFERENCEJOB"),
    TableColumn(title="STATE", rank=1),
    TableColumn(title="DONE", right=True),
    TableColumn(title="FAILED", right=True, rank=2),
    TableColumn(title="ITEMS/S", right=True, rank=3),
    TableColumn(title="ETA", right=True, rank=2),
    TableColumn(title="AGE", right=True, rank=4),
)


def _deployment(each: DeploymentView) -> list[str]:
    nodes = sorted({pod.node for pod in each.pods if pod.node})
    slowest = max((model.p95 for model in each.models if model.p95 is not None), default=None)
    return [
        each.id,
        each.reason,
        f"{each.ready}/{each.wanted}",
        ",".join(str(model.batch_size) for model in each.models if model.batch_size is not None) or "-",
        _rounded(slowest),
        _rounded(rate_of(each)),
        _rounded(queue_of(each)),
        ",".join(nodes) if len(nodes) < 4 else f"{len(nodes)} nodes",
    ]


def _job(each: JobView, now: float) -> list[str]:
    done = each.succeeded + each.failed
    return [
        each.id,
        each.reason,
        f"{done}/{each.total}" if each.total else "-",
        str(each.failed),
        "-" if each.rate is None else f"{each.rate:.2f}",
        "-" if each.eta_s is None else age(each.eta_s),
        "-" if each.started_at is None else age(now - each.started_at),
    ]


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
