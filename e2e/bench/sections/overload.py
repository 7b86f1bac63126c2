"""3x and 10x overload, how soon full service is back, other devices, and a device that slows down in mid-run."""

from __future__ import annotations

import time
from collections.abc import Sequence

from e2e.bench.client.load import drive_all, spec_for
from e2e.bench.cpu import others
from e2e.bench.device import Device, ideal_rate
from e2e.bench.report import Bar
from e2e.bench.run import Interval, Run, intervals, recovery_s, together
from e2e.bench.sections.bench import DEVICE, TARGET_S, Bench
from e2e.bench.sections.steady import running
from e2e.bench.servers import Server

BASE = 150.0
"""Requests per second that go on before, during and after the overload."""
BEFORE_S = 3.0
AFTER_S = 6.0
OVERLOADS = ((1140.0, 400.0), (3800.0, 410.0))
"""Offered on 10 + 2n ms, and answers in time per second asked for."""
OTHERS = ((Device(fixed_ms=2, per_row_ms=8), 150), (Device(fixed_ms=25, per_row_ms=0.8), 200))
SLOWER = Device(fixed_ms=20, per_row_ms=4)


def overload(bench: Bench) -> None:
    """On 10 + 2n ms."""
    with running(bench, "batchwright") as server:
        for offered, wanted in OVERLOADS:
            _overload(bench, server, DEVICE, offered, wanted, TARGET_S)


def devices(bench: Bench) -> None:
    """The same fractions of the bound on other devices with other targets."""
    for device, target_ms in OTHERS:
        target_s = target_ms / 1e3
        with running(bench, "batchwright", device, target_ms) as server:
            _share(bench, server, device, target_s)
            for offered, wanted in OVERLOADS:
                scaled = offered * _ceiling(device, target_s) / _ceiling(DEVICE, TARGET_S)
                fraction = wanted / DEVICE.bound(offered, TARGET_S)
                _overload(bench, server, device, scaled, fraction * device.bound(scaled, target_s), target_s)


def _ceiling(device: Device, target_s: float) -> float:
    return device.bound(1e9, target_s)


def _share(bench: Bench, server: Server, device: Device, target_s: float) -> None:
    """325/s is to 10 + 2n what this rate is to the other device, by the ideal rule's own limit."""
    rate = 325 * ideal_rate(device, target_s, 0.99) / ideal_rate(DEVICE, TARGET_S, 0.99)
    light = bench.load("devices", server, 20, bench.lasting(30, 6), target_s=target_s)
    run = bench.load("devices", server, rate, bench.lasting(60, 10), target_s=target_s)
    bench.check_device(run, device, server.name)
    what, allowed = f"{device}, {target_s * 1e3:g} ms", 14 / 12 * device.seconds(1) * 1e3
    share, p50 = 100 * run.in_time_share(target_s), light.answered_latency_ms(0.5)
    bench.report.bar(
        Bar(name=f"{what}: {rate:.0f}/s in time", measured=share, wanted=99, at_least=True, unit="%", valid=run.valid)
    )
    if 0.5 * device.rate(1) > 20:
        bench.report.bar(Bar(name=f"{what}: 20/s p50", measured=p50, wanted=allowed, at_least=False, unit="ms"))


def _overload(bench: Bench, server: Server, device: Device, offered: float, wanted: float, target_s: float) -> None:
    """A base load all along, the rest of `offered` on top of it for a while."""
    lasting = bench.lasting(15, 5)
    base = min(BASE, 0.35 * device.rate(device.max_size))
    specs = [
        spec_for(server, base, BEFORE_S + lasting + AFTER_S, seed=5),
        spec_for(server, offered - base, lasting, seed=6, start_at=BEFORE_S, connections=256),
    ]
    with others(server.leader) as besides:
        calm, burst = drive_all(specs, bench.cores)
    name = f"{device}, {offered:.0f}/s"
    bench.report.ran("overload", f"{name}, base", calm, target_s)
    bench.report.ran("overload", f"{name}, on top", burst, target_s, other_cores=round(besides.cores, 3))
    both = together([calm, burst])
    bench.check_device(both, device, server.name)
    _tell(bench, name, both, burst, target_s, wanted)


def _tell(bench: Bench, name: str, both: Run, burst: Run, target_s: float, wanted: float) -> None:
    began, ended = float(burst.scheduled_s.min()), float(burst.scheduled_s.max())
    per_100_ms = intervals(both, began - 1.0, ended + 2.0, target_s)
    rate = both.good_rate_between(began, ended, target_s)
    back = recovery_s(both, ended, target_s)
    late = max(both.lateness_ms(0.99), burst.lateness_ms(0.99))
    title = f"{name}: {rate:.1f}/s in time, all in time {back:.2f} s after the overload; sent late p99 {late:.2f} ms"
    _print_intervals(bench, title, per_100_ms, ended - began)
    report, valid = bench.report, both.valid and burst.valid
    report.bar(Bar(name=f"{name}: in time", measured=rate, wanted=wanted, at_least=True, unit="/s", valid=valid))
    report.bar(Bar(name=f"{name}: full service after", measured=back, wanted=1, at_least=False, unit="s", valid=valid))
    report.bar(Bar(name=f"{name}: failed", measured=both.failed, wanted=0, at_least=False))


def _print_intervals(bench: Bench, title: str, found: Sequence[Interval], lasted_s: float) -> None:
    """Ten to a line; the overload begins after the first line. All but the first two and last three seconds of it are
    left out."""
    rows = []
    for start in range(0, len(found), 10):
        second = start / 10 - 1
        if 2 <= second < lasted_s - 1:
            continue
        line = found[start : start + 10]
        rows.append(
            (
                f"{second:+.0f} s",
                *(f"{one.in_time}/{one.refused}" + (f"/{one.late}" if one.late else "") for one in line),
            )
        )
    bench.report.table(f"{title}\nper 100 ms: in time/refused(/late)", ("", *(f".{n}" for n in range(10))), rows)


def jump(bench: Bench) -> None:
    """10 + 2n ms becomes 20 + 4n ms in mid-run, and back."""
    phase, rate = bench.lasting(15, 6), 325.0
    moments: list[float] = []

    with running(bench, "batchwright") as server:

        def change(origin: float) -> None:
            for number, device in enumerate((SLOWER, DEVICE), 1):
                time.sleep(max(0.0, origin + number * phase - time.monotonic()))
                moments.append(server.set_speed(device))

        (run,) = drive_all([spec_for(server, rate, 3 * phase, seed=9)], bench.cores, change)
    bench.report.ran("jump", f"{DEVICE} to {SLOWER} and back", run, TARGET_S)
    _tell_jump(bench, run, moments, phase)


def _tell_jump(bench: Bench, run: Run, moments: Sequence[float], phase: float) -> None:
    fraction = OVERLOADS[0][1] / DEVICE.bound(OVERLOADS[0][0], TARGET_S)
    begins = [float(run.scheduled_s.min()), *moments]
    rows: list[tuple[object, ...]] = []
    for begin, device in zip(begins, (DEVICE, SLOWER, DEVICE), strict=True):
        pieces = intervals(run, begin, begin + phase - 0.5, TARGET_S, 0.5)
        bound = device.bound(run.rate, TARGET_S)
        rows.append((str(device), f"{bound:.0f}", " ".join(f"{2 * one.in_time}" for one in pieces)))
        settled = [one for one in pieces if one.at_s >= 2.0]
        after = sum(one.in_time for one in settled) / (0.5 * len(settled))
        offered = sum(one.offered for one in settled) / (0.5 * len(settled))
        wanted = min(fraction * bound, 0.99 * offered)
        name = f"jump, from 2 s after it on {device}: in time"
        if begin != begins[0]:
            bench.report.bar(Bar(name=name, measured=after, wanted=wanted, at_least=True, unit="/s", valid=run.valid))
    bench.report.table(f"{run.rate:g}/s while the device changes", ("device", "bound/s", "in time/s per 0.5 s"), rows)
