"""The size to begin with: the user's, the warm-up's, the load table's, and what the first batches say."""

from __future__ import annotations

import random

import pytest

from batchwright_worker.scheduler.batch_size.device_time import fit
from batchwright_worker.scheduler.batch_size.fitted_size import expected, of_load_table
from batchwright_worker.scheduler.batch_size.tuning import Controller, TuningConfig
from batchwright_worker.scheduler.served_model import ModelConfig, ServedModel, start_serving
from batchwright_worker.scheduler.simulator import SimulatedDevice, Simulation, poisson

TABLE = tuple((size, size / (0.010 + 0.002 * size)) for size in (1, 2, 4, 8, 16, 32, 64))
"""The load table of a processor on which the reference model takes 10 + 2n ms."""


def served(
    controller: Controller = "Auto", table: tuple[tuple[int, float], ...] = TABLE, first: int | None = None
) -> ServedModel:
    tuning = TuningConfig(latency_s=0.1, controller=controller)
    return start_serving(ModelConfig(name="m", tuning=tuning, initial_size=first, load_table=table), 0.0)


@pytest.mark.parametrize("controller", ["Auto", "MannKendall", "Literal"])
def test_without_a_warm_up_the_load_table_predicts_it(controller: Controller) -> None:
    assert served(controller).tuner.size == 20
    assert served(controller, ()).tuner.size == 1
    assert served(controller, first=7).tuner.size == 7


def test_the_knee_of_the_reference_model_bounds_it() -> None:
    slower = ((1, 50.0), (2, 90.0), (4, 160.0), (8, 161.0), (16, 140.0))
    assert served(table=slower).tuner.size == 4


def test_a_warm_up_of_the_model_itself_counts_for_more() -> None:
    model = served()
    for size in (1, 2, 4, 8):
        model.ran((), size, 0.030 + 0.010 * size)
    model.warmed_up()
    assert model.tuner.size == 2


def test_one_batch_of_the_model_scales_the_table() -> None:
    """The model takes three times as long as the reference: its shape is the processor's, its speed is its own."""
    model = served()
    assert model.bounds(0.0).cap == 2, "what a row takes is not known yet"
    model.ran(("x",), 2, 3 * 0.014)
    assert model.tuner.size == 3
    assert model.tuning_curve().seconds(16) == pytest.approx(3 * 0.042, rel=0.01)


def test_two_sizes_of_the_model_count_for_more_than_the_table() -> None:
    own = fit([(1, 0.1), (2, 0.2)])
    assert expected(own, of_load_table(TABLE)) is own


def test_the_first_batches_are_a_warm_up_of_real_rows() -> None:
    model = served(table=())
    caps = []
    for _ in range(6):
        cap = model.bounds(0.0).cap
        caps.append(cap)
        model.ran(("x",), cap, 0.010 + 0.002 * cap)
    assert caps == [1, 2, 4, 8, 16, 19], "half of the target, less what callers see beyond it"


def until_settled(controller: Controller, table: tuple[tuple[int, float], ...]) -> float:
    """Seconds until 99 % of the next second's 300 requests/s are in time, on a device of 10 + 2n ms."""
    config = ModelConfig(
        name="m", tuning=TuningConfig(latency_s=0.1, controller=controller, max_size=64), load_table=table
    )
    device = SimulatedDevice(seconds=lambda _model, rows, _now: 0.010 + 0.002 * rows)
    report = Simulation([config], [device], warm_up=False).run(poisson(300, 40, random.Random(3)), 40)
    late = [one.end for one in report.done if one.outcome != "Answered" or one.latency_s > 0.1]
    return max([0.0, *late]) if len(late) > 20 else 0.0


def test_steps_from_the_smallest_size_take_longer_than_from_the_predicted_one() -> None:
    assert until_settled("MannKendall", ()) > 5
    assert until_settled("MannKendall", TABLE) == 0.0
    assert until_settled("Auto", ()) == 0.0
    assert until_settled("Auto", TABLE) == 0.0
