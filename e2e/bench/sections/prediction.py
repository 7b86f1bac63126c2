"""What the simulator predicts beside what the live server does: highest rate and p99.

One figure is taken from the live server: how much longer than in the simulator the median request takes under a light
load (the ways between caller, sidecar and runtime). What happens under load is the simulator's to tell.
"""

from __future__ import annotations

import random
from functools import cache

from batchwright_worker.api.deployment import parse_deployment
from batchwright_worker.scheduler.served_model import config_of
from batchwright_worker.scheduler.simulator import SimulatedDevice, Simulation, SimulationReport, poisson
from e2e.bench.report import Bar
from e2e.bench.sections.bench import DEVICE, TARGET_MS, TARGET_S, Bench
from e2e.bench.sections.steady import running
from e2e.bench.servers import deployment, emulated_model

LIGHT = 20
RATES = (100, 200, 300)
TIMER_S = 0.0005
"""By how much the event loop's timers are late, on average (they tick in milliseconds)."""
SIMULATED_S = 60.0


def prediction(bench: Bench) -> None:
    """Both within 10 %."""
    with running(bench, "batchwright") as server:
        light = bench.load("prediction", server, LIGHT, bench.lasting(20, 8))
        live = {rate: bench.load("prediction", server, rate, bench.lasting(30, 10)) for rate in RATES}
        highest = bench.highest_rate(
            "prediction", server, DEVICE.rate(DEVICE.max_size), lambda run: run.latency_ms(0.99) <= TARGET_MS
        )
    ways_s = round(max(0.0, light.answered_latency_ms(0.5) / 1e3 - _simulated(LIGHT, 0.0).latency_s(0.5)), 4)
    foretold = _highest(10 if not bench.quick else 20, ways_s)
    rows: list[tuple[object, ...]] = [
        (f"p50 at {LIGHT}/s, ms (gives the ways)", f"+{1e3 * ways_s:.1f}", f"{light.answered_latency_ms(0.5):.1f}", ""),
        ("max QPS", foretold, highest, f"{foretold / max(1, highest) - 1:+.1%}"),
    ]
    off = abs(foretold / max(1, highest) - 1)
    bench.report.bar(Bar(name="simulated max QPS: off by", measured=100 * off, wanted=10, at_least=False, unit="%"))
    for rate, run in live.items():
        expected, seen = 1e3 * _simulated(rate, ways_s).latency_s(0.99), run.answered_latency_ms(0.99)
        off = 100 * abs(expected / seen - 1)
        rows.append((f"p99 at {rate}/s, ms", f"{expected:.1f}", f"{seen:.1f}", f"{expected / seen - 1:+.1%}"))
        name = f"simulated p99 at {rate}/s: off by"
        bench.report.bar(Bar(name=name, measured=off, wanted=10, at_least=False, unit="%", valid=run.valid))
    bench.report.table(f"Predicted by the simulator, {DEVICE}", ("what", "simulated", "live", "off by"), rows)


@cache
def _simulated(rate: int, ways_s: float) -> SimulationReport:
    """Half of the ways lies between sidecar and runtime, half between sidecar and callers."""
    way_s = ways_s / 4
    device = SimulatedDevice(
        seconds=lambda _model, rows, _now: DEVICE.seconds(rows), depth=2, there_s=way_s, back_s=way_s
    )
    manifest = parse_deployment(deployment([emulated_model("m", DEVICE, TARGET_MS)]))
    config = config_of(manifest.spec.models[0])
    arrivals = poisson(rate, SIMULATED_S, random.Random(rate))  # noqa: S311 - no secret
    simulation = Simulation([config], [device], arrival_s=way_s, answer_s=way_s, timer_s=TIMER_S)
    return simulation.run(arrivals, SIMULATED_S)


def _highest(step: int, ways_s: float) -> int:
    """The highest rate of which 99 of 100 are answered in time: as the live search judges."""
    low, high = 0, int(DEVICE.rate(DEVICE.max_size) // step) + 1
    while high - low > 1:
        middle = (low + high) // 2
        good = _simulated(middle * step, ways_s).in_time_share(TARGET_S) >= 0.99
        low, high = (middle, high) if good else (low, middle)
    return low * step
