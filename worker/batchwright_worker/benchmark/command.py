"""`batchwright-worker benchmark`: measure this machine's (or pod's) processor and tell its load table."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from batchwright_worker.api.messages import BenchmarkResult, DeviceInfo, LoadTableRow
from batchwright_worker.api.names import EXIT_PERMANENT, KIND_CPU, TERMINATION_MESSAGE_MAX_BYTES
from batchwright_worker.otlp.steps import done, step, traced
from batchwright_worker.texts import presentable, text_of

if TYPE_CHECKING:
    from batchwright_worker.benchmark.series import Report

_ERROR_LIMIT = 1000
BUDGET_S = 60
BUDGET_CPU_S = 120
ALL_DEVICES_S = 5.0


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker benchmark --budget-seconds 30\n"
    "  batchwright-worker benchmark --kind nvidia.com/gpu --json\n\n"
    "Exit status: 0; 42 where the processor cannot be measured, and no retry helps; 2 for a wrong command line.",
)
@click.option("--kind", default=KIND_CPU, show_default=True, help="Accelerator kind, e.g. cpu or nvidia.com/gpu.")
@click.option(
    "--budget-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Time to measure, start-up not counted.  [default: {BUDGET_CPU_S} on cpu, else {BUDGET_S}]",
)
@click.option("--spot-check", type=click.IntRange(min=1), help="Measure this batch size alone, with one service.")
@click.option("--termination-log", type=click.Path(path_type=Path), help="Also write the result here (in a pod).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    kind: str, budget_seconds: float | None, spot_check: int | None, termination_log: Path | None, as_json: bool
) -> None:
    """Measure the load table of a processor (method A1): ResNet-50 with growing batches, then growing services."""
    budget_s = budget_seconds or (BUDGET_CPU_S if kind == KIND_CPU else BUDGET_S)
    with traced(os.environ, "batchwright-benchmark"), _progress(kind) as report:
        result = _traced_measure(kind, budget_s, report, spot_check)
    encoded = msgspec.json.encode(result)
    if termination_log:
        termination_log.write_bytes(encoded)
    click.echo(encoded.decode() if as_json else _table(result))
    if result.error:
        sys.exit(EXIT_PERMANENT)


def _traced_measure(kind: str, budget_s: float, report: Report, spot_check: int | None) -> BenchmarkResult:
    """`measure` as a span, and each of its steps as one in it."""
    began = time.time_ns()

    def told(line: str) -> None:
        nonlocal began
        done("measure", began, step=line)
        began = time.time_ns()
        report(line)

    with step("benchmark" if spot_check is None else "spot check", kind=kind, budget_seconds=budget_s) as whole:
        result = measure(kind, budget_s, told, spot_check=spot_check)
        whole.set(images_per_second=result.capacity_images_per_second, product=result.product, error=result.error)
    return result


def measure(kind: str, budget_s: float, report: Report, *, spot_check: int | None = None) -> BenchmarkResult:
    """The whole benchmark. What goes wrong is the result's `error`, with what to do; never raises Exceptions."""
    from batchwright_worker.benchmark.engines.base import BenchmarkError
    from batchwright_worker.benchmark.engines.registry import engine_of
    from batchwright_worker.benchmark.series import Budget, Series

    started = time.monotonic()
    try:
        engine = engine_of(kind)
        report(f"reference model ready after {time.monotonic() - started:.1f} s")
        budget = Budget(budget_s)
        series = Series(engine, budget, report)
        table = series.load_table() if spot_check is None else series.spot_check(spot_check)
        about = engine.about()
    except BenchmarkError as error:
        return BenchmarkResult(kind=kind, error=presentable(text_of(error), _ERROR_LIMIT))
    except ImportError as error:
        words = f"{error}; use an image with the runtime of {kind}"
        return BenchmarkResult(kind=kind, error=presentable(words, _ERROR_LIMIT))
    except Exception as error:
        words = f"{type(error).__name__}: {text_of(error)}; the pod's log has more"
        return BenchmarkResult(kind=kind, error=presentable(words, _ERROR_LIMIT))
    if not table:
        return BenchmarkResult(kind=kind, error="not even one image fits this processor's memory; free some of it")
    best = max(table, key=lambda row: row.images_per_second)
    result = msgspec.structs.replace(
        about,
        kind=kind,
        load_table=table,
        capacity_images_per_second=best.images_per_second,
        scaling=_scaling(kind, about.devices, best, report) if spot_check is None else None,
        seconds=round(budget.spent_s, 1),
    )
    assert len(msgspec.json.encode(result)) <= TERMINATION_MESSAGE_MAX_BYTES
    return result


def _scaling(kind: str, devices: Sequence[DeviceInfo], best: LoadTableRow, report: Report) -> float | None:
    """See `BenchmarkResult.scaling`; None for a single device, and where it cannot be measured: the load table, which
    is what matters most, stands without it."""
    from batchwright_worker.benchmark.all_devices import rate_of_all
    from batchwright_worker.benchmark.engines.base import BenchmarkError

    if len(devices) < 2:
        return None
    try:
        rate = rate_of_all(kind, [each.id for each in devices], best.batch_size, ALL_DEVICES_S)
    except (BenchmarkError, OSError) as error:
        report(f"{len(devices)} devices at once: {text_of(error)}")
        return None
    report(f"{len(devices)} devices at once: {rate:.2f} images/s")
    return round(min(1.0, rate / (len(devices) * best.images_per_second)), 4)


def _progress(kind: str) -> Any:
    """A context manager that gives `report`: a spinner with the newest step on a terminal, else a line per step."""
    if not sys.stderr.isatty():
        return nullcontext(lambda line: click.echo(f"benchmark of {kind}: {line}", err=True))
    return _Spinner(kind)


class _Spinner:
    """The steps on a terminal: the newest one moves, the finished ones stay above it."""

    def __init__(self, kind: str) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._status = self._console.status(f"benchmark of {kind}: starting")

    def __enter__(self) -> Report:
        self._status.start()
        return self._report

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def _report(self, line: str) -> None:
        self._console.print(f"  {line}", highlight=False, markup=False)
        self._status.update("measuring")


def _table(result: BenchmarkResult) -> str:
    """For people."""
    if result.error:
        return f"{result.kind}: {result.error}"
    where = f"{result.product or 'unknown product'}, {result.runtime_version}, {result.seconds:.0f} s"
    head = f"{result.kind}: {result.capacity_images_per_second:.2f} images/s  ({where})"
    names = f"{'batch':>6} {'images/s':>10} {'services':>9}"
    rows = [f"{row.batch_size:>6} {row.images_per_second:>10.2f} {row.max_services:>9}" for row in result.load_table]
    return "\n".join([head, names, *rows])
