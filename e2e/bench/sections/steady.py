"""serving.md's table for all servers, and the bars of a steady load."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from e2e.bench.cpu import metered
from e2e.bench.device import Device
from e2e.bench.report import Bar
from e2e.bench.run import Run, together
from e2e.bench.sections.bench import DEVICE, TARGET_MS, TARGET_S, Bench, settle
from e2e.bench.servers import Server, batchwright, deployment, emulated_model, peer, peer_model


@dataclass(slots=True, kw_only=True)
class Row:
    """One server's line of the table."""

    name: str
    highest: int = 0
    saturation: float = 0.0
    saturation_refused: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    overload: Run | None = None
    cpu: dict[str, float] = field(default_factory=dict)


@contextlib.contextmanager
def running(bench: Bench, name: str, device: Device = DEVICE, target_ms: int = TARGET_MS) -> Iterator[Server]:
    """A server by its short name, serving the emulated model `m`."""
    bench.report.progress(f"starting {name} on {device}")
    if name == "batchwright":
        with batchwright(deployment([emulated_model("m", device, target_ms)]), bench.cores) as server:
            yield server
    else:
        with peer("mosec" if name == "mosec" else "plain", peer_model(device), bench.cores) as server:
            yield server


def table(bench: Bench) -> None:
    """serving.md's table, measured in this run."""
    rows = []
    for name in bench.servers:
        with running(bench, name) as server:
            rows.append(_row(bench, server))
    header = (
        "server",
        "max QPS",
        "saturation/s",
        "20/s p50 / p99 ms",
        "570/s: in time/s",
        "refused",
        "CPU % per 100/s",
    )
    bench.report.table(
        f"Emulated accelerator {DEVICE}, target {TARGET_MS} ms, open loop by MLPerf LoadGen ({bench.cores})",
        header,
        [_cells(row) for row in rows],
    )


def _row(bench: Bench, server: Server) -> Row:
    row = Row(name=server.name)
    idle = bench.idle_cores(server)
    light = bench.load("table", server, 20, bench.lasting(30, 8))
    row.p50_ms, row.p99_ms = light.answered_latency_ms(0.5), light.answered_latency_ms(0.99)
    with metered(server.leader, server.part) as usage:
        middle = bench.load("table", server, 250, bench.lasting(20, 6))
    row.cpu = usage.per_100_requests(middle.count, idle)
    bench.check_device(middle, DEVICE, server.name)
    row.highest = bench.highest_rate(
        "table", server, DEVICE.rate(DEVICE.max_size), lambda run: run.latency_ms(0.99) <= TARGET_MS
    )
    closed = bench.load("table", server, 0, bench.lasting(10, 4))
    row.saturation = closed.answered_rate()
    row.saturation_refused = closed.refused / closed.seconds
    bench.check_device(closed, DEVICE, server.name)
    settle(server)
    row.overload = bench.load("table", server, 570, bench.lasting(20, 6))
    return row


def _cells(row: Row) -> list[object]:
    over = row.overload
    assert over is not None
    saturation = f"{row.saturation:.0f}"
    if row.saturation_refused:
        saturation += f" ({row.saturation_refused:.0f} refused)"
    return [
        row.name,
        row.highest,
        saturation,
        f"{row.p50_ms:.1f} / {row.p99_ms:.1f}",
        f"{over.in_time_rate(TARGET_S):.0f}",
        f"{over.refused / max(1, over.count):.0%}",
        _cpu(row.cpu),
    ]


def _cpu(parts: dict[str, float]) -> str:
    total = f"{sum(parts.values()):.2f}"
    named = {name: value for name, value in parts.items() if name in ("sidecar", "runtime")}
    return total + (f" ({', '.join(f'{name} {value:.2f}' for name, value in named.items())})" if named else "")


def steady(bench: Bench) -> None:
    """99 % of 325/s within 100 ms over 3 x 60 s; 20/s; CPU."""
    with running(bench, "batchwright") as server:
        idle = bench.idle_cores(server)
        light = bench.load("steady", server, 20, bench.lasting(60, 10))
        with metered(server.leader, server.part) as usage:
            runs = [bench.load("steady", server, 325, bench.lasting(60, 10), seed=seed) for seed in (1, 2, 3)]
        for run in runs:
            bench.check_device(run, DEVICE, server.name)
    every = together(runs)
    cpu = usage.per_100_requests(every.count, idle)
    rows = [
        (
            number,
            f"{run.in_time_share(TARGET_S):.3%}",
            run.refused,
            run.failed,
            _pair(run),
            f"{run.lateness_ms(0.99):.2f}",
        )
        for number, run in enumerate(runs, 1)
    ]
    header = ("325/s, run", "in time", "refused", "failed", "p50 / p99 ms", "sent late p99 ms")
    bench.report.table(f"Batchwright at 325/s on {DEVICE}, {runs[0].seconds:g} s each", header, rows)
    idle_text = ", ".join(f"{name} {100 * cores:.2f} %" for name, cores in idle.items())
    bench.report.console.print(f"CPU per 100 requests/s: {_cpu(cpu)} % of a core; idle: {idle_text}")
    report = bench.report
    share = 100 * every.in_time_share(TARGET_S)
    report.bar(
        Bar(name="325/s: in time", measured=share, wanted=99, at_least=True, unit="%", valid=all(r.valid for r in runs))
    )
    p50 = light.answered_latency_ms(0.5)
    report.bar(Bar(name="20/s: p50", measured=p50, wanted=14, at_least=False, unit="ms", valid=light.valid))
    total = sum(cpu.values())
    report.bar(Bar(name="CPU per 100 req/s at 325/s", measured=total, wanted=3, at_least=False, unit="% of a core"))


def _pair(run: Run) -> str:
    return f"{run.answered_latency_ms(0.5):.1f} / {run.answered_latency_ms(0.99):.1f}"
