"""`batchwright-worker layerwise profile | run | trace`: real networks, from files, on this machine's CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import click
import msgspec

from batchwright_worker.layerwise.comparison import Ask, Run, policy_named, run_streamed, run_whole, same_outputs
from batchwright_worker.layerwise.device_cpu import CpuAccelerator
from batchwright_worker.layerwise.planner import Plans
from batchwright_worker.layerwise.pool import Reads, UnitReader
from batchwright_worker.layerwise.profiler import RUNS, Effort, example_inputs, measured
from batchwright_worker.layerwise.profiles import Profile, Summary, cache_folder, processor_name
from batchwright_worker.layerwise.tracing import trace as trace_of
from batchwright_worker.layerwise.units import PAGE, Network, NotDivisible

__all__ = ["profile", "run", "trace"]

_FORMATS: Final = {".onnx": "onnx", ".pt2": "torch-export"}
_UNITS: Final = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "": 1}


class _Size(click.ParamType):
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


class _Named(click.ParamType):
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
            "--model", "models", type=_Named(), multiple=True, help="NAME=FILE (.onnx, .pt2). None: two samples."
        ),
        click.option("--rows", type=_Named(), multiple=True, help="NAME=ROWS of a batch; default 1."),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """The networks of one command, opened and profiled."""

    networks: Mapping[str, Network]
    readers: Mapping[str, UnitReader]
    profiles: Mapping[str, Profile]
    budget: int
    reads: Reads


@click.command()
@_shared
@click.option("--json", "as_json", is_flag=True, help="The profiles as JSON.")
def profile(as_json: bool, **options: Any) -> None:
    """Cut networks into units and measure them: at least 20 runs each, and what the engines cost each other."""
    with ExitStack() as stack:
        setup = _setup(stack, **options)
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(list(setup.profiles.values()))).decode())
            return
        for name, found in setup.profiles.items():
            _tell_profile(name, setup.networks[name], found)


@click.command()
@_shared
@click.option("--requests", type=click.IntRange(1), default=4, show_default=True, help="Per model, in turn.")
@click.option("--policies", default="balanced,literal,fifo", show_default=True, help="Ways to order the units.")
@click.option("--skip-limit", type=click.IntRange(0), default=None, help="Guard N; default: from the measured times.")
@click.option("--whole/--no-whole", default=True, help="Also one whole model after the other.")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="Take the median of so many runs.")
@click.option("--trace", "trace_to", type=click.Path(path_type=Path), default=None, help="Write a trace for Perfetto.")
@click.option("--plot", type=click.Path(path_type=Path), default=None, help="Draw both engines (extra `plot`).")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON.")
def run(**options: Any) -> None:
    """Run requests of several networks from files: unit by unit, and whole, and compare."""
    _run(**options)


@click.command()
@_shared
@click.option("--requests", type=click.IntRange(1), default=2, show_default=True, help="Per model, in turn.")
@click.option("--policies", default="balanced,fifo", show_default=True, help="Ways to order the units.")
@click.option("--skip-limit", type=click.IntRange(0), default=None, help="Guard N; default: from the measured times.")
@click.argument("file", type=click.Path(path_type=Path))
def trace(file: Path, **options: Any) -> None:
    """Run as `run` does and write what ran when to FILE; open it at ui.perfetto.dev."""
    _run(trace_to=file, plot=None, as_json=False, whole=False, repeat=1, **options)


def _run(
    *,
    requests: int,
    policies: str,
    skip_limit: int | None,
    whole: bool,
    repeat: int,
    trace_to: Path | None,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    with ExitStack() as stack:
        setup = _setup(stack, **options)
        asks = _asks(setup, requests)
        runs = _runs(stack, setup, asks, policies.split(","), skip_limit, repeat)
        reference = run_whole({name: (setup.networks[name], setup.readers[name]) for name in setup.networks}, asks)
        equal = {each.name: same_outputs(each, reference) for each in runs}
        if whole:
            runs.append(reference)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode([_facts(each, equal) for each in runs])).decode())
    else:
        _tell(setup, runs, equal)
    if trace_to is not None:
        trace_to.write_bytes(msgspec.json.encode(trace_of({each.name: each.records for each in runs if each.records})))
        click.echo(f"trace: {trace_to} (open it at ui.perfetto.dev)", err=True)
    if plot is not None:
        from batchwright_worker.layerwise.charts_runs import draw_records

        draw_records({each.name: each.records for each in runs if each.records}, plot)
    if not all(equal.values()):
        raise click.ClickException("outputs differ from those of the networks run alone")


def _setup(
    stack: ExitStack,
    *,
    models: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, str]],
    budget: int,
    threads: int | None,
    reads: str,
    cache: Path | None,
) -> _Setup:
    """Opens, prepares and measures what the options name."""
    from batchwright_worker.layerwise.networks_cpu import open_network
    from batchwright_worker.runtime.backends.base import Host, LoadError
    from batchwright_worker.runtime.memory import Ledger
    from batchwright_worker.runtime.threads import thread_count

    folder = cache or cache_folder()
    files = {name: Path(path) for name, path in models} or _samples(folder / "samples")
    sizes = _rows(files, rows, sampled=not models)
    host = Host(kind="cpu", threads=threads or thread_count(), ledger=Ledger(0))
    processor = f"{processor_name()} x{host.threads} {reads}"
    networks, readers, profiles = {}, {}, {}
    for name, path in files.items():
        try:
            network = open_network(_source(name, path), host, folder, budget // 2)
        except (NotDivisible, LoadError) as error:
            raise click.ClickException(f"{name}: {error}") from error
        reader = UnitReader(network.folder, cast(Reads, reads))
        stack.callback(reader.close)
        if reads != "cached":
            reader.forget()
        networks[name], readers[name] = network, reader
        _check_budget(name, network, budget)
        profiles[name] = measured(network, reader, sizes[name], processor, Effort(runs=RUNS, least=RUNS))
    return _Setup(networks=networks, readers=readers, profiles=profiles, budget=budget, reads=cast(Reads, reads))


def _check_budget(name: str, network: Network, budget: int) -> None:
    if network.index.largest_bytes > budget // PAGE * PAGE:
        raise click.ClickException(
            f"{name}: its largest unit has {network.index.largest_bytes} bytes, which cannot be split further; "
            f"the budget is {budget}: raise it"
        )


def _source(name: str, path: Path) -> Any:
    from batchwright_worker.ipc.messages import ModelSource

    kind = _FORMATS.get(path.suffix)
    if kind is None:
        raise click.ClickException(f"{path}: give a .onnx or a .pt2 (torch.export) file")
    return ModelSource(name=name, format=kind, path=str(path), inputs=[], outputs=[])


def _samples(folder: Path) -> dict[str, Path]:
    """ResNet-50 and a wide network, written once."""
    from batchwright_worker.layerwise.samples import write_conv, write_wide

    folder.mkdir(parents=True, exist_ok=True)
    files = {"resnet50": folder / "resnet50.onnx", "wide": folder / "wide.onnx"}
    for (name, path), write in zip(files.items(), (write_conv, write_wide), strict=True):
        if not path.is_file():
            click.echo(f"writing {name}: {path}", err=True)
            write(path)
    return files


def _rows(files: Mapping[str, Path], given: Sequence[tuple[str, str]], *, sampled: bool) -> dict[str, int]:
    rows = {**dict.fromkeys(files, 1), **({"resnet50": 8} if sampled else {})}
    for name, text in given:
        if name not in files or not text.isdigit() or not int(text):
            raise click.ClickException(
                f"--rows {name}={text}: name a model ({', '.join(files)}) and a number from 1 on"
            )
        rows[name] = int(text)
    return rows


def _asks(setup: _Setup, requests: int) -> list[Ask]:
    """Requests in turn: A M A M ..."""
    inputs = {
        name: example_inputs(network.inputs, setup.profiles[name].rows) for name, network in setup.networks.items()
    }
    return [
        Ask(model=name, rows=setup.profiles[name].rows, inputs=inputs[name])
        for _ in range(requests)
        for name in setup.networks
    ]


def _runs(
    stack: ExitStack, setup: _Setup, asks: Sequence[Ask], policies: Sequence[str], skip_limit: int | None, repeat: int
) -> list[Run]:
    """Each policy `repeat` times in turn; of each the run with the median makespan."""
    device = CpuAccelerator(setup.budget, setup.reads)
    stack.callback(device.pool.close)
    plans = Plans()
    for name, network in setup.networks.items():
        device.add(name, network)
        plans.add(name, [setup.profiles[name]])
    found: dict[str, list[Run]] = {name: [] for name in policies}
    for _ in range(repeat):
        for name in policies:
            try:
                policy = policy_named(name, plans, asks, device.ring.capacity, skip_limit)
            except ValueError as error:
                raise click.ClickException(str(error)) from error
            found[name].append(run_streamed(device, plans, asks, policy))
    return [sorted(runs, key=lambda each: each.makespan_s)[len(runs) // 2] for runs in found.values()]


def _tell_profile(name: str, network: Network, found: Profile) -> None:
    click.echo(f"{name}: {Summary(profile=found)}")
    click.echo(
        f"  fetch = {found.latency_s * 1e3:.2f} ms + bytes / {found.bytes_per_second / 1e6:.0f} MB/s; while the other "
        f"engine works: compute x{found.compute_slowdown:.2f}, fetch x{found.fetch_slowdown:.2f}; {found.runs} runs each"
    )
    for unit, seconds in zip(network.index.units, found.compute_s, strict=True):
        click.echo(f"  {unit.name:40} {unit.size / 1e6:9.2f} MB {seconds * 1e3:9.2f} ms")


def _facts(run: Run, equal: Mapping[str, bool]) -> dict[str, Any]:
    told, totals = run.told, run.totals
    facts: dict[str, Any] = {"way": run.name, "makespanSeconds": run.makespan_s, "peakBytes": run.peak_bytes}
    if told is None:
        return facts
    return {
        **facts,
        "bitwiseEqual": equal[run.name],
        "replayError": told.error,
        "planError": told.plan_error,
        "computeIdleSeconds": totals.compute_idle_s,
        "memoryIdleSeconds": totals.memory_idle_s,
        "decisionSeconds": totals.decision_s,
        "decisionShare": totals.decision_s / run.makespan_s,
        "decisionMicroseconds": totals.decision_s / max(totals.units, 1) * 1e6,
    }


def _tell(setup: _Setup, runs: Sequence[Run], equal: Mapping[str, bool]) -> None:
    for name, found in setup.profiles.items():
        click.echo(f"{name}: {Summary(profile=found)}")
    total = sum(network.index.weight_bytes for network in setup.networks.values())
    click.echo(f"weights {total / 1e6:.0f} MB in all, budget {setup.budget / 1e6:.0f} MB, reads {setup.reads}")
    click.echo(
        f"{'way':13} {'makespan':>10} {'peak MB':>8} {'IC s':>7} {'IM s':>7} {'replay':>7} {'plan':>7} {'decide':>8}  equal"
    )
    for each in runs:
        line = f"{each.name:13} {each.makespan_s:8.3f} s {each.peak_bytes / 1e6:8.1f}"
        if each.told is not None:
            totals, told = each.totals, each.told
            line += (
                f" {totals.compute_idle_s:7.3f} {totals.memory_idle_s:7.3f} {told.error:7.2%} {told.plan_error:7.1%}"
                f" {totals.decision_s / each.makespan_s:8.3%}  {'bitwise' if equal[each.name] else 'NO'}"
            )
        click.echo(line)
    best = runs[0].makespan_s
    click.echo("; ".join(f"{each.name} takes x{each.makespan_s / best:.2f} of {runs[0].name}" for each in runs[1:]))
