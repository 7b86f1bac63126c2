"""A device that takes two batches at a time gets the second one only when waiting could not improve it."""

from __future__ import annotations

import random

import pytest

from batchwright_worker.scheduler.batch_size.tuning import TuningConfig
from batchwright_worker.scheduler.devices import MOST_LEAD_S, DeviceConfig, ResidentModel
from batchwright_worker.scheduler.dispatch import Nothing
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ModelConfig
from batchwright_worker.scheduler.simulator import SimulatedDevice, Simulation, SimulationReport, poisson
from batchwright_worker.scheduler.steps import Batch, QueueRequest


def scheduler_of(*models: str, latency_s: float | None = None, per_row_s: float = 0.002, depth: int = 2) -> Scheduler:
    """Models of known speed (5 rows are a full batch), all in the memory of one idle device."""
    scheduler = Scheduler()
    device = scheduler.add_device(DeviceConfig(name="d", kind="test", depth=depth), up=True)
    for name in models:
        served = scheduler.add_model(
            ModelConfig(name=name, tuning=TuningConfig(latency_s=latency_s, max_size=5), initial_size=5), 0.0
        )
        for rows in (1, 2, 4):
            served.ran((), rows, 5 * per_row_s + per_row_s * rows)
        device.memory.residents[name] = ResidentModel(memory_bytes=0, has_served=True)
    return scheduler


def offer(scheduler: Scheduler, rows: int, now: float = 0.0, model: str = "m") -> list[int]:
    keys = [scheduler.offer(QueueRequest(model=model, rows=1, arrival=now), now) for _ in range(rows)]
    assert all(isinstance(key, int) for key in keys)
    return [key for key in keys if isinstance(key, int)]


def started(scheduler: Scheduler, now: float = 0.0) -> Batch | None:
    action = scheduler.next(now).action
    assert isinstance(action, Batch | Nothing)
    return action if isinstance(action, Batch) else None


def test_a_full_batch_follows_a_running_one_and_a_third_waits() -> None:
    scheduler = scheduler_of("m")
    offer(scheduler, 15)
    first, second = started(scheduler), started(scheduler)
    assert first is not None
    assert second is not None
    assert started(scheduler) is None
    timeline = scheduler.devices["d"].timeline
    assert timeline.until == pytest.approx(2 * 0.020)
    assert scheduler.expected_wait_s("m", 0.0) == pytest.approx(2 * 0.020 + 0.020)
    scheduler.batch_ended(first, 0.020, 0, 0.020)
    assert timeline.running == "m"
    assert started(scheduler, 0.020) is not None
    scheduler.batch_ended(second, 0.020, 0, 0.040)
    assert timeline.busy_at(0.040) == pytest.approx(0.040)


def test_a_batch_that_may_still_grow_waits_for_the_device() -> None:
    scheduler = scheduler_of("m")
    offer(scheduler, 9)
    assert started(scheduler) is not None
    assert started(scheduler) is None
    offer(scheduler, 1, now=0.001)
    assert started(scheduler, 0.001) is not None


def test_shortly_before_the_running_batch_ends_whatever_waits_follows() -> None:
    scheduler = scheduler_of("m")
    offer(scheduler, 6)
    first = started(scheduler)
    assert first is not None
    wake_at = scheduler.next(0.001).wake_at
    assert wake_at is not None
    assert 0.8 * 0.020 <= wake_at < 0.020
    assert started(scheduler, wake_at - 1e-4) is None
    second = started(scheduler, wake_at)
    assert second is not None
    assert second.run.rows == 1


def test_the_lead_is_what_a_batch_takes_beyond_its_device_time_but_never_much_of_it() -> None:
    scheduler = scheduler_of("m")
    timeline, now = scheduler.devices["d"].timeline, 0.0
    for _ in range(60):
        offer(scheduler, 5, now)
        batch = started(scheduler, now)
        assert batch is not None
        now += 0.0203
        scheduler.batch_ended(batch, 0.020, 0, now)
    assert timeline.round_trip_s == pytest.approx(0.0003, rel=0.05)
    offer(scheduler, 5, now)
    assert started(scheduler, now) is not None
    assert timeline.until - timeline.follow_at == pytest.approx(0.0028, rel=0.05)
    timeline.round_trip_s = 0.050
    assert timeline.until - timeline.follow_at == pytest.approx(MOST_LEAD_S)


def test_behind_a_very_short_batch_one_of_half_its_rows_follows_at_once() -> None:
    scheduler = scheduler_of("m", per_row_s=0.00001)
    offer(scheduler, 7)
    first = started(scheduler)
    assert first is not None
    assert first.run.rows == 5
    assert started(scheduler) is None
    offer(scheduler, 1)
    second = started(scheduler)
    assert second is not None
    assert second.run.rows == 3


def test_a_full_batch_does_not_overtake_the_queue_that_is_first_in_order() -> None:
    scheduler = scheduler_of("a", "m")
    offer(scheduler, 5, now=0.0, model="m")
    assert started(scheduler) is not None
    offer(scheduler, 1, now=0.0, model="a")
    offer(scheduler, 5, now=0.009, model="m")
    assert started(scheduler, 0.010) is None


def test_one_batch_at_a_time_is_the_default() -> None:
    scheduler = scheduler_of("m", depth=1)
    offer(scheduler, 10)
    assert started(scheduler) is not None
    assert started(scheduler) is None


def test_what_would_end_too_late_behind_the_running_batch_is_dropped_not_handed_over() -> None:
    scheduler = scheduler_of("m", latency_s=0.05)
    offer(scheduler, 5)
    assert started(scheduler) is not None
    in_time = scheduler.offer(QueueRequest(model="m", rows=5, arrival=0.0, deadline=0.041), 0.0)
    assert isinstance(in_time, int)
    scheduler.devices["d"].timeline.until = 0.030
    step = scheduler.next(0.0)
    assert step.late == (in_time,)
    assert isinstance(step.action, Nothing)


def test_a_load_behind_a_batch_that_ends_early_is_followed_in_time() -> None:
    """The batch behind it is handed over before the load ends, not when it was to end at first."""
    scheduler = scheduler_of("m")
    device = scheduler.devices["d"]
    offer(scheduler, 5)
    batch = started(scheduler)
    assert batch is not None
    device.start_load("n", 0, 0.018, 0.018 + 0.030)
    assert device.timeline.until == pytest.approx(0.020 + 0.030)
    scheduler.batch_ended(batch, 0.016, 0, 0.016)
    assert device.timeline.until == pytest.approx(0.016 + 0.030)
    assert device.timeline.follow_at < 0.016 + 0.030


def test_cancelled_rows_are_not_handed_over() -> None:
    scheduler = scheduler_of("m")
    offer(scheduler, 5)
    assert started(scheduler) is not None
    keys = offer(scheduler, 5)
    scheduler.cancel(keys[0])
    assert started(scheduler) is None


def simulated(rate: float, depth: int) -> SimulationReport:
    """A device 0.65 ms away on each side, callers 0.6 ms away; timers fire half a millisecond late."""
    device = SimulatedDevice(
        seconds=lambda _model, rows, _now: 0.010 + 0.002 * rows, depth=depth, there_s=0.00065, back_s=0.00065
    )
    config = ModelConfig(name="m", tuning=TuningConfig(latency_s=0.1))
    simulation = Simulation([config], [device], arrival_s=0.0006, answer_s=0.0006, timer_s=0.0005)
    return simulation.run(poisson(rate, 10, random.Random(7)), 10)


@pytest.mark.parametrize(("rate", "per_second"), [(325, 322), (1140, 410), (3800, 420)])
def test_the_device_does_not_wait_for_the_next_batch(rate: float, per_second: float) -> None:
    two = simulated(rate, 2).in_time_per_second(0.1)
    assert two >= per_second
    assert two > simulated(rate, 1).in_time_per_second(0.1)
