"""The simulator runs the engine's own modules: the directions of serving.md's tables, and the death spiral.

Device 10 + 2n ms, target 100 ms, unless said otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from batchwright_worker.api.deployment import Eviction, QueueOrder
from batchwright_worker.scheduler.batch_size.tuning import TuningConfig
from batchwright_worker.scheduler.served_model import ModelConfig
from batchwright_worker.scheduler.simulator import (
    Arrival,
    SimulatedDevice,
    Simulation,
    SimulationReport,
    closed_loop,
    poisson,
)

TARGET_S = 0.1
DEVICE = SimulatedDevice(seconds=lambda _model, rows, _now: 0.010 + 0.002 * rows)


def simulate(
    rate: float = 0, *, callers: int = 0, seconds: float = 20, first: int = 32, **options: Any
) -> SimulationReport:
    device = options.pop("device", DEVICE)
    admits_all = options.pop("admits_all", False)
    warm_up = options.pop("warm_up", True)
    tuning = TuningConfig(**{"latency_s": TARGET_S, "controller": "MannKendall", **options})
    config = ModelConfig(name="m", tuning=tuning, initial_size=first, admits_all=admits_all)
    load = closed_loop(callers) if callers else poisson(rate, seconds, random.Random(7))
    return Simulation([config], [device], warm_up=warm_up).run(load, seconds)


@pytest.mark.parametrize(
    ("rate", "good_per_second"),
    [(20, 15), (325, 310), (345, 330), (400, 365), (1140, 410), (3800, 420)],
)
def test_answers_in_time_stay_near_the_bound_at_any_load(rate: float, good_per_second: float) -> None:
    report = simulate(rate, seconds=5)
    assert report.in_time_per_second(TARGET_S) >= good_per_second
    assert report.latency_s(0.99) <= TARGET_S


def test_99_of_100_are_in_time_at_325_per_second() -> None:
    assert simulate(325, seconds=30).in_time_share(TARGET_S) >= 0.99


def test_a_light_load_is_served_at_once() -> None:
    assert simulate(20, seconds=60).latency_s(0.5) <= 0.014


def test_the_plain_rule_without_the_guard_spirals_to_death() -> None:
    spiral = simulate(500, seconds=70, first=64, max_size=64, controller="Literal", admits_all=True)
    assert spiral.sizes["m"][-1] <= 2
    assert spiral.rows_per_second(since=65) < 130


@pytest.mark.parametrize("controller", ["MannKendall", "Auto", "Fitted"])
def test_the_proposal_by_cause_does_not_spiral(controller: str) -> None:
    report = simulate(500, seconds=30, first=64, max_size=64, controller=controller, admits_all=True)
    assert report.rows_per_second(since=20) > 390


@pytest.mark.parametrize("controller", ["MannKendall", "Auto", "Fitted"])
def test_admission_keeps_answers_good_through_the_same_overload(controller: str) -> None:
    report = simulate(500, seconds=10, first=32, controller=controller)
    assert report.in_time_per_second(TARGET_S) > 390


@pytest.mark.parametrize(("rate", "controller"), [(300, "MannKendall"), (300, "Auto"), (340, "Fitted")])
def test_the_size_climbs_from_one_until_all_is_in_time(rate: float, controller: str) -> None:
    report = simulate(rate, seconds=40, first=1, controller=controller)
    assert report.sizes["m"][-1] >= 10
    last = [one for one in report.answered(since=25) if one.latency_s <= TARGET_S]
    assert len(last) / 15 > 0.95 * rate


@pytest.mark.parametrize("rate", [150, 345, 1140])
def test_auto_is_the_better_one_by_measurement(rate: float) -> None:
    good = {
        controller: simulate(rate, seconds=20, first=1, controller=controller).in_time_per_second(TARGET_S)
        for controller in ("MannKendall", "Auto")
    }
    assert good["Auto"] >= good["MannKendall"]


def test_a_met_target_still_grows_where_more_would_be_served() -> None:
    """16 callers in a closed loop: the plain rule stops at 3 rows, 189/s."""
    report = simulate(callers=16, seconds=30, first=1)
    assert report.rows_per_second(since=20) > 280


def test_a_slower_model_is_followed() -> None:
    twice = SimulatedDevice(seconds=lambda _m, n, now: (0.010 + 0.002 * n) * (1 if now < 20 else 2))
    report = simulate(120, seconds=60, first=20, device=twice)
    late = [one for one in report.answered(since=25) if one.latency_s > TARGET_S]
    assert len(late) <= 0.02 * len(report.answered(since=25))
    assert report.in_time_per_second(TARGET_S, since=25) > 105


def test_batches_stop_growing_where_the_device_is_no_faster() -> None:
    """PP-OCRv4 at width 960 (serving.md, 4): beyond one row per batch every row costs more."""
    table = {1: 0.0210, 6: 0.165, 16: 0.640, 32: 1.456}

    def seconds(_model: str, rows: int, _now: float) -> float:
        sizes = sorted(table)
        if rows in table:
            return table[rows]
        below = max(size for size in sizes if size < rows)
        above = min(size for size in sizes if size > rows)
        return table[below] + (table[above] - table[below]) * (rows - below) / (above - below)

    slow = SimulatedDevice(seconds=seconds)
    tuned = simulate(callers=32, seconds=120, first=1, device=slow, latency_s=None, warm_up=False)
    static = simulate(callers=32, seconds=120, first=32, device=slow, latency_s=None, min_size=32)
    assert tuned.rows_per_second(since=60) > 1.4 * static.rows_per_second(since=60)


def test_a_run_is_the_same_each_time() -> None:
    assert simulate(300, seconds=5).done == simulate(300, seconds=5).done


def zipf(rate: float, seconds: float, models: int, generator: random.Random) -> Iterator[Arrival]:
    weights = [1 / (rank + 1) ** 1.1 for rank in range(models)]
    now = generator.expovariate(rate)
    while now < seconds:
        yield Arrival(now, f"m{generator.choices(range(models), weights)[0]:02d}")
        now += generator.expovariate(rate)


@cache
def many_models(
    order: QueueOrder, eviction: Eviction = "LeastWorth", *, overlaps: bool = False, seed: int = 3, seconds: float = 15
) -> SimulationReport:
    device = SimulatedDevice(
        seconds=lambda _model, rows, _now: 0.010 + 0.002 * rows,
        memory_bytes=1000,
        load_bytes=100,
        load_s=0.02,
        overlaps_loads=overlaps,
    )
    configs = [ModelConfig(name=f"m{i:02d}", tuning=TuningConfig(), initial_size=32, load_bytes=100) for i in range(50)]
    load = zipf(200, seconds, 50, random.Random(seed))
    return Simulation(configs, [device], order, eviction).run(load, seconds)


@pytest.mark.parametrize("seed", [3, 4, 5])
@pytest.mark.slow
def test_fifty_models_in_memory_for_ten_are_served_on_the_frontier(seed: int) -> None:
    report = many_models("Balanced", seed=seed, seconds=40)
    assert report.count("Refused") == report.count("Late") == 0
    assert report.latency_s(0.5) <= 0.450
    assert report.latency_s(0.99) <= 1.950
    assert report.rows_per_second() > 190


@pytest.mark.slow
def test_which_neither_of_b4s_orders_is() -> None:
    longest, oldest = many_models("Longest", seconds=40), many_models("Oldest", seconds=40)
    assert longest.latency_s(0.99) > 2 * 1.950
    assert oldest.rows_per_second() < 170
    assert oldest.latency_s(0.5) > 2 * 0.450


@pytest.mark.slow
def test_the_model_worth_least_is_a_better_one_to_evict_than_the_least_recently_used() -> None:
    worth, lru = many_models("Balanced", seconds=40), many_models("Balanced", "LeastRecentlyUsed", seconds=40)
    assert worth.latency_s(0.99) < 0.85 * lru.latency_s(0.99)
    assert worth.loads < lru.loads


@pytest.mark.slow
def test_loads_that_overlap_the_batches_are_planned_ahead() -> None:
    planned, blocking = many_models("Balanced", overlaps=True), many_models("Balanced")
    assert planned.latency_s(0.99) < 0.4 * blocking.latency_s(0.99)
    assert planned.latency_s(0.5) < 0.6 * blocking.latency_s(0.5)
