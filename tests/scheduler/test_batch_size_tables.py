"""The tables of serving.md, 3, in the simulator: device 10 + 2n ms, target 100 ms, windows of 1 s, no admission unless
said otherwise; both controllers against the plain rule, other devices and targets, jumps of speed."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

import numpy as np
import pytest

from batchwright_worker.scheduler.batch_size.tuning import Controller, TuningConfig
from batchwright_worker.scheduler.queues import Bucket
from batchwright_worker.scheduler.served_model import ModelConfig
from batchwright_worker.scheduler.simulator import (
    Arrival,
    SimulatedDevice,
    Simulation,
    SimulationReport,
    closed_loop,
    poisson,
)

CONTROLLERS: list[Controller] = ["MannKendall", "Auto"]
SECONDS = 60.0
SETTLED = 40.0


def line(fixed_s: float, per_row_s: float) -> SimulatedDevice:
    return SimulatedDevice(seconds=lambda _model, rows, _now: fixed_s + per_row_s * rows)


def slower_from(when: float) -> SimulatedDevice:
    """From (10, 2) to (20, 4) ms."""
    return SimulatedDevice(seconds=lambda _model, rows, now: (0.010 + 0.002 * rows) * (1 if now < when else 2))


@cache
def table(load: float | int, first: int, controller: Controller, *, jump: bool = False) -> SimulationReport:
    """`load`: requests per second if a float, callers in a closed loop if an int."""
    tuning = TuningConfig(latency_s=0.1, max_size=64, controller=controller)
    config = ModelConfig(name="m", tuning=tuning, initial_size=first, admits_all=True)
    arrivals = closed_loop(load) if isinstance(load, int) else poisson(load, SECONDS, random.Random(7))
    device = slower_from(20) if jump else line(0.010, 0.002)
    return Simulation([config], [device], warm_up=False).run(arrivals, SECONDS)


def last_size(report: SimulationReport) -> int:
    return report.sizes["m"][-1]


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("rate", [100.0, 200.0, 300.0])
def test_from_one_row_it_climbs_until_all_is_in_time(rate: float, controller: Controller) -> None:
    report = table(rate, 1, controller)
    late = sum(1 for one in report.answered(SETTLED) if one.latency_s > 0.1)
    assert late <= 0.01 * len(report.answered(SETTLED))
    assert report.rows_per_second(SETTLED) > 0.95 * rate


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_an_overloaded_large_size_does_not_spiral_to_death(controller: Controller) -> None:
    assert table(500.0, 64, controller).rows_per_second(SETTLED) > 400
    assert table(64, 64, controller).rows_per_second(SETTLED) > 400


@pytest.mark.parametrize("load", [500.0, 64])
def test_which_the_plain_rule_does(load: float) -> None:
    spiral = table(load, 64, "Literal")
    assert last_size(spiral) <= 8
    assert spiral.sizes["m"] == sorted(spiral.sizes["m"], reverse=True)
    assert spiral.rows_per_second(since=SECONDS - 4) < 300 < spiral.rows_per_second()


@pytest.mark.parametrize("rate", [100.0, 340.0])
def test_and_it_never_leaves_one_row(rate: float) -> None:
    stuck = table(rate, 1, "Literal")
    assert last_size(stuck) == 1
    assert stuck.rows_per_second(SETTLED) < 90


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_few_callers_are_served_as_fast_as_they_can_ask_and_then_it_stops(controller: Controller) -> None:
    """16 callers in two alternating batches of 8 (26 ms each): 308/s; the plain rule stays at 84/s, a stop rule that
    looks at latency alone at 189/s."""
    report = table(16, 1, controller)
    assert report.rows_per_second(SETTLED) > 300
    assert last_size(report) <= 20, "what takes half of the target; more is never asked for"
    assert len(set(report.sizes["m"][-15:])) == 1


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_slower_device_is_followed_to_a_size_that_still_serves_all(controller: Controller) -> None:
    report = table(150.0, 20, controller, jump=True)
    assert report.rows_per_second(SETTLED) > 145
    assert last_size(report) * 1000 / (20 + 4 * last_size(report)) > 150


def test_the_default_is_the_better_controller_by_measurement() -> None:
    """Rows in time per second over the first 15 s from one row per batch, the controllers' own climbs included."""
    good = {(rate, name): in_time_from_one(rate, name) for rate in (200.0, 340.0) for name in CONTROLLERS}
    assert good[200.0, "Auto"] >= good[200.0, "MannKendall"]
    assert good[340.0, "Auto"] > 1.05 * good[340.0, "MannKendall"]


def in_time_from_one(rate: float, controller: Controller) -> float:
    config = ModelConfig(name="m", tuning=TuningConfig(latency_s=0.1, controller=controller), initial_size=1)
    report = Simulation([config], [line(0.010, 0.002)], warm_up=False).run(poisson(rate, 15, random.Random(3)), 15)
    return report.in_time_per_second(0.1)


@pytest.mark.parametrize("rate", [100.0, 300.0, 1000.0])
def test_a_jump_of_speed_is_fitted_again_within_two_seconds(rate: float) -> None:
    config = ModelConfig(name="m", tuning=TuningConfig(latency_s=0.1))
    simulation = Simulation([config], [slower_from(5)])
    simulation.run(poisson(rate, 7, random.Random(3)), 7)
    curve = simulation.scheduler.models["m"].overall.curve
    typical = simulation.scheduler.models["m"].facts((), 7.0).cap
    for rows in (max(1, typical // 2), typical):
        assert curve.seconds(rows) == pytest.approx(0.020 + 0.004 * rows, rel=0.1)


SEARCH = {"query": ((1, 0.0037), (4, 0.0023), (32, 0.0018)), "passage": ((1, 0.099), (4, 0.110), (32, 0.134))}
"""(size, seconds per row): short rows are cheaper together, long ones alone."""


def of_shape(bucket: Bucket, rows: int) -> float:
    sizes, each = zip(*SEARCH[bucket], strict=True)
    return float(rows * np.interp(rows, sizes, each))


def test_each_shape_finds_its_own_size_and_together_they_beat_every_static_one() -> None:
    """serving.md, 4. Full batches of one size for both shapes, in the shares in which these callers ask."""
    callers = [Arrival(0.0, "m", 1, "passage" if number < 2 else "query", number) for number in range(96)]
    device = SimulatedDevice(seconds=lambda *_: 0.0, of_shape=of_shape)
    report = Simulation([ModelConfig(name="m", tuning=TuningConfig())], [device], warm_up=False).run(callers, SECONDS)
    asked = Counter(one.arrival.bucket for one in report.answered(SETTLED))
    best = min(sum(asked[shape] * of_shape(shape, size) / size for shape in SEARCH) for size in range(1, 33))
    assert 0.95 * best > (SECONDS - SETTLED)
    assert report.sizes["m"][5] == 32, "batches of one passage do not slow the climb"


def bound(fixed_s: float, per_row_s: float, target_s: float, rate: float) -> float:
    """n* / t(n*) of serving.md with at most 32 rows, or what is offered if that is less."""
    rows = min(32, int((target_s - fixed_s) / (per_row_s + 1 / rate)))
    return min(rate, rows / (fixed_s + per_row_s * rows))


@pytest.mark.parametrize(("overload", "share"), [(3, 400 / 428), (10, 410 / 432)])
@pytest.mark.parametrize(("fixed_ms", "per_row_ms", "target_ms"), [(10, 2, 100), (2, 8, 150), (25, 0.8, 200)])
def test_overloaded_devices_of_any_speed_answer_the_same_share_of_the_bound(
    fixed_ms: float, per_row_ms: float, target_ms: float, overload: float, share: float
) -> None:
    fixed_s, per_row_s, target_s = fixed_ms / 1e3, per_row_ms / 1e3, target_ms / 1e3
    rate = overload * 32 / (fixed_s + 32 * per_row_s)
    config = ModelConfig(name="m", tuning=TuningConfig(latency_s=target_s))
    report = Simulation([config], [line(fixed_s, per_row_s)]).run(poisson(rate, 6, random.Random(5)), 6)
    assert report.in_time_per_second(target_s, since=1) >= share * bound(fixed_s, per_row_s, target_s, rate)


def test_through_a_jump_the_answers_stay_in_time_again_within_two_seconds() -> None:
    config = ModelConfig(name="m", tuning=TuningConfig(latency_s=0.1))
    report = Simulation([config], [slower_from(5)]).run(poisson(400, 12, random.Random(3)), 12)
    since = 7.0
    assert report.in_time_per_second(0.1, since=since) >= 400 / 428 * bound(0.020, 0.004, 0.1, 400)
    late = [one for one in report.answered(since) if one.latency_s > 0.1]
    assert len(late) <= 0.02 * len(report.answered(since))
