"""Two models of unequal targets and load on one device (simulated): both in time when that is feasible; when it is not,
the one that takes more of the device suffers first."""

from __future__ import annotations

import heapq
import random

import pytest

from batchwright_worker.scheduler.batch_size.tuning import TuningConfig
from batchwright_worker.scheduler.fair_share import rebalance
from batchwright_worker.scheduler.served_model import ModelConfig, ServedModel, start_serving
from batchwright_worker.scheduler.simulator import Fate, SimulatedDevice, Simulation, poisson

TARGETS: dict[str, float | None] = {"wide": 0.100, "tight": 0.040, "like wide": 0.100, "untargeted": None}
SPEEDS = {
    "wide": (0.010, 0.002),
    "tight": (0.003, 0.0005),
    "like wide": (0.010, 0.002),
    "untargeted": (0.010, 0.002),
}
"""a, b in seconds; full batches alone: 432 and 1,684 rows per second."""


def in_time(**rates: float) -> dict[str, float]:
    """Share of each model's requests answered within its target (10 s without one), refusals counted as misses."""
    rates = {name.replace("_", " "): rate for name, rate in rates.items()}
    device = SimulatedDevice(seconds=lambda model, rows, _now: SPEEDS[model][0] + SPEEDS[model][1] * rows)
    configs = [ModelConfig(name=name, tuning=TuningConfig(latency_s=TARGETS[name])) for name in rates]
    load = heapq.merge(
        *(poisson(rate, 10, random.Random(number), name) for number, (name, rate) in enumerate(rates.items()))
    )
    report = Simulation(configs, [device]).run(load, 10)
    shares = {}
    for name in rates:
        fates: list[Fate] = [one for one in report.done if one.arrival.model == name]
        good = sum(1 for one in fates if one.outcome == "Answered" and one.latency_s <= (TARGETS[name] or 10.0))
        shares[name] = good / len(fates)
    return shares


@pytest.mark.parametrize(("wide", "tight"), [(100, 100), (150, 300), (200, 200), (50, 600)])
def test_both_are_in_time_when_that_is_feasible(wide: float, tight: float) -> None:
    shares = in_time(wide=wide, tight=tight)
    assert min(shares.values()) >= 0.985


@pytest.mark.parametrize("tight", [100, 300])
def test_an_overloaded_model_does_not_take_the_tighter_one_along(tight: float) -> None:
    shares = in_time(wide=1200, tight=tight)
    assert shares["tight"] >= 0.95
    assert 0.1 < shares["wide"] < 0.4


def test_nor_the_one_that_has_more_time() -> None:
    shares = in_time(wide=50, tight=4000)
    assert shares["wide"] >= 0.95
    assert shares["tight"] * 4000 > 1000


def test_equals_in_overload_get_the_same() -> None:
    shares = in_time(wide=600, like_wide=600)
    assert shares["wide"] == pytest.approx(shares["like wide"], abs=0.05)
    assert sum(shares.values()) * 600 > 350


def test_of_two_alike_the_one_that_asks_for_less_is_spared() -> None:
    shares = in_time(wide=600, like_wide=60)
    assert shares["like wide"] >= 0.97


def test_a_model_without_a_target_is_neither_starved_nor_spared() -> None:
    assert in_time(wide=150, untargeted=150)["wide"] >= 0.95
    overloaded = in_time(wide=1000, untargeted=50)
    assert overloaded["untargeted"] == 1.0
    assert overloaded["wide"] * 1000 > 250


def served_of(name: str, rate: float, now: float = 10.0) -> ServedModel:
    fixed_s, per_row_s = SPEEDS[name]
    served = start_serving(ModelConfig(name=name, tuning=TuningConfig(latency_s=TARGETS[name]), initial_size=16), 0.0)
    for rows in (1, 2, 4, 8):
        served.ran((), rows, fixed_s + per_row_s * rows)
        served.turnaround_measured(fixed_s + per_row_s * rows, fixed_s + per_row_s * rows)
    for tick in range(1000):
        served.offered.add(rate / 100, now - 10 + tick / 100)
    return served


def test_a_batch_leaves_room_for_the_tighter_target_while_that_model_is_active() -> None:
    wide, tight, idle = served_of("wide", 300), served_of("tight", 300), served_of("tight", 0.1)
    rebalance([wide, idle], 1, 10.0)
    alone = wide.facts((), 10.0).cap
    rebalance([wide, tight], 1, 10.0)
    assert wide.facts((), 10.0).cap < alone
    assert wide.turnaround(()).seconds(wide.facts((), 10.0).cap) <= 0.040 - 2 * tight.batch_s + 1e-9
    assert tight.max_batch_s > 1e9
    assert (wide.capacity_share < 1, tight.capacity_share) == (True, 1.0)
