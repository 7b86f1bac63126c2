"""Several models on one device: two of unequal targets and load, and fifty in memory for ten."""

from __future__ import annotations

import contextlib
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from batchwright_worker.api.deployment import QueueOrder, parse_deployment
from batchwright_worker.api.names import KIND_EMULATED
from batchwright_worker.scheduler.served_model import config_of
from batchwright_worker.scheduler.simulator import Arrival, SimulatedDevice, Simulation, SimulationReport
from e2e.bench.client.load import drive, drive_all, spec_for
from e2e.bench.device import Device
from e2e.bench.report import Bar
from e2e.bench.run import Run, device_truth
from e2e.bench.sections.bench import DEVICE, Bench
from e2e.bench.servers import Server, batchwright, deployment, emulated_model

MODELS = 50
IN_MEMORY = 10
ZIPF = 1.1
RATE = 200.0
SEEDS = (31, 32, 33)
LOAD_MS = 20
WEIGHTS_BYTES = 1_000_000
WEIGHTS = {f"m{rank:02d}": 1 / (rank + 1) ** ZIPF for rank in range(MODELS)}
ORDERS = get_args(QueueOrder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One of two models on a device, and its loads: feasible together, and not."""

    name: str
    device: Device
    target_ms: int
    feasible: float
    excessive: float


TENANTS = (
    Tenant(name="quick", device=Device(), target_ms=100, feasible=100, excessive=250),
    Tenant(name="slow", device=Device(fixed_ms=10, per_row_ms=4), target_ms=300, feasible=40, excessive=120),
)


def models(bench: Bench) -> None:
    """Both within target when that is feasible; who suffers first when not."""
    manifest = deployment([emulated_model(each.name, each.device, each.target_ms) for each in TENANTS])
    rows: list[tuple[object, ...]] = []
    with batchwright(manifest, bench.cores) as server:
        for what in ("feasible", "excessive"):
            for tenant, run in zip(TENANTS, _both(bench, server, what), strict=True):
                share = 100 * run.in_time_share(tenant.target_ms / 1e3)
                rows.append(
                    (
                        what,
                        f"{tenant.name} ({tenant.device}, {tenant.target_ms} ms)",
                        f"{run.rate:g}",
                        f"{share:.2f}",
                        f"{run.refused / run.count:.1%}",
                        f"{run.answered_latency_ms(0.5):.1f} / {run.answered_latency_ms(0.99):.1f}",
                    )
                )
                if what == "feasible":
                    name = f"two models, {tenant.name}: in time"
                    bench.report.bar(
                        Bar(name=name, measured=share, wanted=99, at_least=True, unit="%", valid=run.valid)
                    )
    header = ("load", "model", "offered/s", "in time %", "refused", "p50 / p99 ms")
    bench.report.table("Two models of unequal targets and load on one device", header, rows)


def _both(bench: Bench, server: Server, what: str) -> list[Run]:
    specs = [
        spec_for(server, getattr(each, what), bench.lasting(30, 8), models={each.name: 1.0}, seed=seed)
        for seed, each in enumerate(TENANTS, 21)
    ]
    runs = drive_all(specs, bench.cores)
    for tenant, run in zip(TENANTS, runs, strict=True):
        bench.report.ran("models", f"{tenant.name}, {what}", run, tenant.target_ms / 1e3)
    return runs


def residency(bench: Bench) -> None:
    """50 models in memory for 10, Zipf(1.1), 200/s, loads of 20 ms: blocking, then overlapping the batches."""
    for overlaps in (False, True):
        rows: list[tuple[object, ...]] = []
        for order in ORDERS if not overlaps else ORDERS[:1]:
            judged = order == "Balanced" and not overlaps
            seeds = SEEDS if judged and not bench.quick else SEEDS[:1]
            runs = [_live(bench, order, overlaps, seed) for seed in seeds]
            rows += [_line(f"{order}, live", run) for run in runs]
            if judged:
                _bars(bench, runs)
        rows += [_simulated_line(order, overlaps) for order in ORDERS]
        rows.append(_simulated_line("Longest", overlaps, lru=True))
        title = "overlap the batches" if overlaps else "block the device"
        bench.report.table(
            f"{MODELS} models in memory for {IN_MEMORY}, Zipf({ZIPF}), {RATE:g}/s, loads of {LOAD_MS} ms that {title}",
            ("queue order", "p50 ms", "p99 ms", "answered/s", "not answered"),
            rows,
        )


def _bars(bench: Bench, runs: Sequence[Run]) -> None:
    """Medians of the runs; none of them may have failed a request."""
    valid = all(run.valid for run in runs)
    unanswered = sum(run.count - int(run.answered.sum()) for run in runs)
    bench.report.bar(Bar(name="50 models: not answered", measured=unanswered, wanted=0, at_least=False))
    for name, share, wanted in (("p50", 0.5, 450), ("p99", 0.99, 1950)):
        found = statistics.median(run.answered_latency_ms(share) for run in runs)
        bar = Bar(name=f"50 models: {name}", measured=found, wanted=wanted, at_least=False, unit="ms", valid=valid)
        bench.report.bar(bar)


def _line(name: str, run: Run) -> tuple[object, ...]:
    p50_ms, p99_ms = run.answered_latency_ms(0.5), run.answered_latency_ms(0.99)
    unanswered = run.count - int(run.answered.sum())
    return (name, f"{p50_ms:.0f}", f"{p99_ms:.0f}", f"{run.answered_rate():.0f}", unanswered)


@contextlib.contextmanager
def _serving(bench: Bench, order: QueueOrder, overlaps: bool) -> Iterator[Server]:
    bench.report.progress(f"starting Batchwright with {MODELS} models, order {order}")
    with batchwright(_manifest(order, overlaps), bench.cores) as server:
        yield server


def _manifest(order: QueueOrder, overlaps: bool) -> dict[str, Any]:
    emulated = {"weightsBytes": WEIGHTS_BYTES, "loadMilliseconds": LOAD_MS, "loadOverlaps": overlaps}
    return deployment(
        [emulated_model(name, DEVICE, None, **emulated) for name in WEIGHTS],
        queueOrder=order,
        runtimes=[{"accelerator": KIND_EMULATED, "memoryBudgetBytes": IN_MEMORY * WEIGHTS_BYTES}],
    )


def _live(bench: Bench, order: QueueOrder, overlaps: bool, seed: int) -> Run:
    with _serving(bench, order, overlaps) as server:
        spec = spec_for(server, RATE, bench.lasting(60, 15), models=WEIGHTS, seed=seed, grace_s=20.0, limit=4096)
        run = bench.report.ran("residency", f"{order}{', overlapping' * overlaps}", drive(spec, bench.cores), 1.95)
        truth = device_truth(run, DEVICE)
        bench.report.progress(f"device: fastest answer {truth.fastest_ms:.2f} ms; holds: {truth.holds}")
        return run


# --- simulated ------------------------------------------------------------------------------------


def _simulated_line(order: QueueOrder, overlaps: bool, *, lru: bool = False) -> tuple[object, ...]:
    report = simulated(order, overlaps=overlaps, lru=lru)
    name = f"{order}{', evict least recently used' * lru}, simulated"
    p50, p99 = 1e3 * report.latency_s(0.5), 1e3 * report.latency_s(0.99)
    return (name, f"{p50:.0f}", f"{p99:.0f}", f"{report.rows_per_second():.0f}", report.count("Refused"))


def simulated(order: QueueOrder, *, overlaps: bool, lru: bool = False, seconds: float = 60.0) -> SimulationReport:
    """The scheduler itself on a simulated device."""
    device = SimulatedDevice(
        seconds=lambda _model, rows, _now: DEVICE.seconds(rows),
        memory_bytes=IN_MEMORY * WEIGHTS_BYTES,
        load_bytes=WEIGHTS_BYTES,
        load_s=LOAD_MS / 1e3,
        overlaps_loads=overlaps,
    )
    manifest = parse_deployment(_manifest(order, overlaps))
    configs = [config_of(model, load_bytes=WEIGHTS_BYTES) for model in manifest.spec.models]
    simulation = Simulation(configs, [device], order, "LeastRecentlyUsed" if lru else "LeastWorth")
    return simulation.run(_zipf(seconds), seconds)


def _zipf(seconds: float) -> Iterator[Arrival]:
    generator = random.Random(3)  # noqa: S311 - no secret
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    now = generator.expovariate(RATE)
    while now < seconds:
        yield Arrival(now, generator.choices(names, weights)[0])
        now += generator.expovariate(RATE)
