"""Predictions by which every request is too late are tried out: else nothing runs that could correct them."""

from __future__ import annotations

import pytest

from batchwright_worker.scheduler.batch_size.device_time import DeviceTime
from batchwright_worker.scheduler.batch_size.tuning import TuningConfig
from batchwright_worker.scheduler.devices import DeviceConfig, ResidentModel
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import PROBE_S, ModelConfig
from batchwright_worker.scheduler.steps import Batch, QueueRequest, Refusal

TARGET_S = 0.1
ON_THE_WAY_S = 0.001
"""From the offer to the decision."""


def pessimist(turn_s: float) -> Scheduler:
    """A model of target 100 ms, idle, of which so much was learned until now = 0."""
    scheduler = Scheduler()
    device = scheduler.add_device(DeviceConfig(name="d", kind="test", depth=2), up=True)
    served = scheduler.add_model(ModelConfig(name="m", tuning=TuningConfig(latency_s=TARGET_S)), 0.0)
    for _ in range(5):
        served.ran((), 1, turn_s)
    served.ran_at = 0.0
    device.memory.residents["m"] = ResidentModel(memory_bytes=0, has_served=True)
    return scheduler


def answered_in(scheduler: Scheduler, now: float, seconds: float, within_s: float | None = None) -> bool:
    """Is a lone request run? Then it takes `seconds`."""
    deadline = None if within_s is None else now + within_s
    key = scheduler.offer(QueueRequest(model="m", rows=1, arrival=now, deadline=deadline), now)
    if isinstance(key, Refusal):
        return False
    step = scheduler.next(now + ON_THE_WAY_S)
    if not isinstance(step.action, Batch):
        assert step.late == (key,)
        return False
    scheduler.batch_ended(step.action, seconds, 0, now + ON_THE_WAY_S + seconds)
    return True


@pytest.mark.parametrize("within_s", [None, 0.05])
def test_a_model_that_seems_a_hair_too_slow_is_tried_again_and_found_fast(within_s: float | None) -> None:
    """A lone row just in time at its offer is late at its dispatch, and a retry a second later finds the same."""
    target_s = pessimist(0.01).models["m"].target_s
    assert target_s is not None
    scheduler = pessimist(target_s - ON_THE_WAY_S / 2)
    assert not answered_in(scheduler, PROBE_S / 2, 0.01, within_s), "it is taken at its word for a while"
    for tries in range(1, 6):
        assert answered_in(scheduler, 3 * PROBE_S * tries, 0.01, within_s)
    assert answered_in(scheduler, 15.5 * PROBE_S, 0.01, within_s)


def test_a_model_that_is_slow_is_not_run_for_nobody_all_the_time() -> None:
    """One second a row, callers that give it 50 ms: at most a twentieth of the time goes into trying."""
    scheduler = pessimist(1.0)
    scheduler.models["m"].config = ModelConfig(name="m", tuning=TuningConfig())
    runs = sum(answered_in(scheduler, number / 2, 1.0, 0.05) for number in range(1, 201))
    assert 1 <= runs <= 5


def test_nobody_is_tried_whose_time_is_over() -> None:
    scheduler = pessimist(0.05)
    assert not answered_in(scheduler, 100.0, 0.05, 0.0)
    assert not answered_in(scheduler, 100.0, 0.05, ON_THE_WAY_S / 2)


def test_a_first_batch_that_was_slow_is_soon_outvoted() -> None:
    times = DeviceTime()
    times.observe(1, 0.006)
    assert times.curve.seconds(1) == pytest.approx(0.006)
    for _ in range(4):
        times.observe(1, 0.002)
    assert times.curve.seconds(1) == pytest.approx(0.002)
