"""`batchwright-worker layerwise profile | run | trace`: real networks, from files, on this machine's CPU."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from batchwright_worker.layerwise.core.policy import POLICIES
from batchwright_worker.layerwise.execution.jobs import UnitRecord
from batchwright_worker.layerwise.networks.units import Network
from batchwright_worker.layerwise.profiling.profiler import example_inputs
from batchwright_worker.layerwise.profiling.profiles import Profile, Summary
from batchwright_worker.layerwise.tools.comparison import (
    WHOLE,
    Trial,
    TrialRequest,
    policy_named,
    run_streamed,
    run_whole,
    same_outputs,
)
from batchwright_worker.layerwise.tools.prepared_networks import PreparedNetworks, prepare_networks
from batchwright_worker.layerwise.tools.trace_export import trace as trace_of

__all__ = ["profile", "run", "trace"]

_UNITS: Final = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "": 1}


class _Size(click.ParamType[int]):
    """Bytes: 268435456, 256Mi, 1Gi."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number = value.rstrip("KMGi")
        unit = value[len(number) :]
        if unit not in _UNITS or not number.isdigit() or not int(number):
            self.fail(f"{value!r} is no size: write bytes, or 256Mi, or 1Gi", param, ctx)
        return int(number) * _UNITS[unit]


class _NamedValue(click.ParamType[tuple[str, str]]):
    """NAME=VALUE."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, sign, text = value.partition("=")
        if not (name and sign and text):
            self.fail(f"{value!r}: write NAME=VALUE", param, ctx)
        return name, text


def _shared(command: Any) -> Any:
    """The options of all three."""
    options = [
        click.option(
            "--model", "models", type=_NamedValue(), multiple=True, help="NAME=FILE (.onnx, .pt2). None: two samples."
        ),
        click.option("--rows", type=_NamedValue(), multiple=True, help="NAME=ROWS of a batch; default 1."),
        click.option(
            "--budget", type=_Size(), default="256Mi", show_default=True, help="Memory for weights in flight."
        ),
        click.option("--threads", type=click.IntRange(1), default=None, help="Compute threads; default: all cores."),
        click.option(
            "--reads",
            type=click.Choice(["direct", "cold", "cached"]),
            default="cold",
            show_default=True,
            help="direct: past the page cache; cold: dropped from it after each read; cached: left there.",
        ),
        click.option("--cache", type=click.Path(path_type=Path), default=None, help="Prepared networks and profiles."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker layerwise profile --model a=a.onnx --rows a=8\n\n"
    "Exit status: 0; 1 with a sentence where it cannot be done; 2 for a wrong command line.",
)
@_shared
@click.option("--json", "as_json", is_flag=True, help="The profiles as JSON.")
def profile(as_json: bool, **options: Any) -> None:
    """Cut networks into units and measure them: at least 20 runs each, and what the engines cost each other."""
    with ExitStack() as stack:
        prepared = prepare_networks(stack, **options)
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(list(prepared.profiles.values()))).decode())
            return
        for name, found in prepared.profiles.items():
            _print_profile(name, prepared.networks[name], found)


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker layerwise run\n"
    "  batchwright-worker layerwise run --model a=a.onnx --model b=b.pt2 --budget 64Mi --requests 8\n\n"
    "Exit status: 0; 1 with a sentence where it cannot be done; 2 for a wrong command line.",
)
@_shared
@click.option("--requests", type=click.IntRange(1), default=4, show_default=True, help="Per model, in turn.")
@click.option("--policies", default="balanced,literal,fifo", show_default=True, help="Ways to order the units.")
@click.option("--skip-limit", type=click.IntRange(0), default=None, help="Guard N; default: from the measured times.")
@click.option("--whole/--no-whole", default=True, help="Also one whole model after the other.")
@click.option(
    "--repeat", type=click.IntRange(1), default=1, show_default=True, help="So many runs of every way, in turn."
)
@click.option("--trace", "trace_to", type=click.Path(path_type=Path), default=None, help="Write a trace for Perfetto.")
@click.option("--plot", type=click.Path(path_type=Path), default=None, help="Draw both engines (extra `plot`).")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON.")
def run(**options: Any) -> None:
    """Run requests of several networks from files: unit by unit, and whole, and compare."""
    ways = {each.name: options.pop(each.name) for each in fields(_Ways)}
    _run(_Ways(**ways), **options)


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker layerwise trace --model a=a.onnx --model b=b.onnx trace.json\n\n"
    "Exit status: 0; 1 with a sentence where it cannot be done; 2 for a wrong command line.",
)
@_shared
@click.option("--requests", type=click.IntRange(1), default=2, show_default=True, help="Per model, in turn.")
@click.option("--policies", default="balanced,fifo", show_default=True, help="Ways to order the units.")
@click.option("--skip-limit", type=click.IntRange(0), default=None, help="Guard N; default: from the measured times.")
@click.argument("file", type=click.Path(path_type=Path))
def trace(file: Path, requests: int, policies: str, skip_limit: int | None, **options: Any) -> None:
    """Run as `run` does and write what ran when to FILE; open it at ui.perfetto.dev."""
    _run(_Ways(requests=requests, policies=policies, skip_limit=skip_limit, trace_to=file), **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ways:
    """How to run, and where to write what was seen."""

    requests: int
    policies: str
    skip_limit: int | None
    whole: bool = False
    repeat: int = 1
    trace_to: Path | None = None
    plot: Path | None = None
    as_json: bool = False


def _run(ways: _Ways, **options: Any) -> None:
    for name in ways.policies.split(","):
        if name not in POLICIES:
            raise click.ClickException(f"--policies: there is no policy {name!r}; there are {', '.join(POLICIES)}")
    with ExitStack() as stack:
        prepared = prepare_networks(stack, **options)
        requests = _requests(prepared, ways.requests)
        trials = _trials(stack, prepared, requests, ways)
    reference = trials[WHOLE][0]
    equal = {name: all(same_outputs(each, reference) for each in runs) for name, runs in trials.items()}
    if not ways.whole:
        del trials[WHOLE]
    if ways.as_json:
        facts = [_facts(runs, equal=equal[name]) for name, runs in trials.items()]
        click.echo(msgspec.json.format(msgspec.json.encode(facts)).decode())
    else:
        _print(prepared, trials, equal)
    fastest = {name: _fastest(runs).records for name, runs in trials.items()}
    _draw({name: records for name, records in fastest.items() if records}, ways)
    if not all(equal.values()):
        raise click.ClickException("outputs differ from those of the networks run alone")


def _draw(records: Mapping[str, Sequence[UnitRecord]], ways: _Ways) -> None:
    if ways.trace_to is not None:
        ways.trace_to.write_bytes(msgspec.json.encode(trace_of(records)))
        click.echo(f"trace: {ways.trace_to} (open it at ui.perfetto.dev)", err=True)
    if ways.plot is not None:
        from batchwright_worker.layerwise.tools.charts import draw_records

        draw_records(records, ways.plot)


def _requests(prepared: PreparedNetworks, per_model: int) -> list[TrialRequest]:
    """Requests in turn: A M A M ..."""
    inputs = {
        name: example_inputs(network.inputs, prepared.profiles[name].rows)
        for name, network in prepared.networks.items()
    }
    return [
        TrialRequest(model=name, rows=prepared.profiles[name].rows, inputs=inputs[name])
        for _ in range(per_model)
        for name in prepared.networks
    ]


def _trials(
    stack: ExitStack, prepared: PreparedNetworks, requests: Sequence[TrialRequest], ways: _Ways
) -> dict[str, list[Trial]]:
    """Every way `repeat` times, in turn, so that what disturbs this machine disturbs all of them."""
    device, plans = prepared.device(stack)
    networks = {name: (prepared.networks[name], prepared.readers[name]) for name in prepared.networks}
    trials: dict[str, list[Trial]] = {name: [] for name in (*ways.policies.split(","), WHOLE)}
    for turn in range(ways.repeat):
        for name, runs in trials.items():
            if name == WHOLE:
                if ways.whole or not turn:
                    runs.append(run_whole(networks, requests))
                continue
            policy = policy_named(name, plans, requests, device.ring.capacity, ways.skip_limit)
            runs.append(run_streamed(device, plans, requests, policy))
    return trials


def _fastest(runs: Sequence[Trial]) -> Trial:
    """The least disturbed one."""
    return min(runs, key=lambda each: each.makespan_s)


def _print_profile(name: str, network: Network, found: Profile) -> None:
    click.echo(f"{name}: {Summary(profile=found)}")
    click.echo(
        f"  fetch = {found.latency_s * 1e3:.2f} ms + bytes / {found.bytes_per_second / 1e6:.0f} MB/s; {found.runs} "
        f"runs each; beside the other engine: compute x{found.compute_slowdown:.2f}, fetch x{found.fetch_slowdown:.2f}"
    )
    for unit, seconds in zip(network.index.units, found.compute_s, strict=True):
        click.echo(f"  {unit.name:40} {unit.size / 1e6:9.2f} MB {seconds * 1e3:9.2f} ms")


def _facts(runs: Sequence[Trial], *, equal: bool) -> dict[str, Any]:
    run = _fastest(runs)
    check, totals = run.check, run.totals
    facts: dict[str, Any] = {
        "way": run.name,
        "makespanSeconds": run.makespan_s,
        "medianMakespanSeconds": statistics.median(each.makespan_s for each in runs),
        "peakBytes": max(each.peak_bytes for each in runs),
    }
    if check is None:
        return facts
    return {
        **facts,
        "bitwiseEqual": equal,
        "replayError": max(each.check.error for each in runs if each.check),
        "planError": check.plan_error,
        "computeIdleSeconds": totals.compute_idle_s,
        "memoryIdleSeconds": totals.memory_idle_s,
        "decisionSeconds": totals.decision_s,
        "decisionShare": totals.decision_s / run.makespan_s,
        "decisionMicroseconds": totals.decision_s / max(totals.units, 1) * 1e6,
    }


def _print(prepared: PreparedNetworks, trials: Mapping[str, Sequence[Trial]], equal: Mapping[str, bool]) -> None:
    for name, found in prepared.profiles.items():
        click.echo(f"{name}: {Summary(profile=found)}")
    total = sum(network.index.weight_bytes for network in prepared.networks.values())
    click.echo(f"weights {total / 1e6:.0f} MB in all, budget {prepared.budget / 1e6:.0f} MB, reads {prepared.reads}")
    click.echo(
        f"{'way':13} {'fastest':>10} {'median':>10} {'peak MB':>8} {'IC s':>7} {'IM s':>7} "
        f"{'replay':>7} {'plan':>7} {'decide':>8}  equal"
    )
    facts = {name: _facts(runs, equal=equal[name]) for name, runs in trials.items()}
    for name, each in facts.items():
        line = f"{name:13} {each['makespanSeconds']:8.3f} s {each['medianMakespanSeconds']:8.3f} s"
        line += f" {each['peakBytes'] / 1e6:8.1f}"
        if "replayError" in each:
            line += (
                f" {each['computeIdleSeconds']:7.3f} {each['memoryIdleSeconds']:7.3f} {each['replayError']:7.2%}"
                f" {each['planError']:7.1%} {each['decisionShare']:8.3%}  {'bitwise' if equal[name] else 'NO'}"
            )
        click.echo(line)
    first = next(iter(facts))
    best = facts[first]["makespanSeconds"]
    rest = [f"{name} takes x{each['makespanSeconds'] / best:.2f}" for name, each in facts.items() if name != first]
    click.echo(f"against {first}: {'; '.join(rest)}")
