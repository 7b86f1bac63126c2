"""The published methods, step by step against their text: what each says, and that the scheduler does it.

B4 and B5 here; A7's formulas in test_trend, A6 to A8 below and, in the running engine, in
tests/engine/test_published_batch_size.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchwright_worker.api.deployment import Eviction, QueueOrder
from batchwright_worker.inference.runtime import MemoryReport
from batchwright_worker.mann_kendall import mann_kendall
from batchwright_worker.scheduler.batch_size.controller import decide
from batchwright_worker.scheduler.batch_size.device_time import UNKNOWN, fit
from batchwright_worker.scheduler.batch_size.tuning import TunerState, TuningConfig
from batchwright_worker.scheduler.devices import DeviceConfig
from batchwright_worker.scheduler.dispatch import LoadModel
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ModelConfig
from batchwright_worker.scheduler.steps import Batch, QueueRequest
from batchwright_worker.scheduler.window_counts import WindowFacts

# --- B4 and B5


def two_in_memory_for_two(order: QueueOrder, eviction: Eviction = "LeastWorth") -> Scheduler:
    """Models a, b and c of 100 bytes each on a device of 200 that loads while it runs; a and b are resident."""
    scheduler = Scheduler(order=order, eviction=eviction)
    scheduler.add_device(DeviceConfig(name="d", kind="test", overlaps_loads=True), up=True)
    scheduler.memory_measured("d", MemoryReport(total_bytes=200, used_bytes=0, free_bytes=200))
    for name in "abc":
        served = scheduler.add_model(ModelConfig(name=name, tuning=TuningConfig(), load_bytes=100), 0.0)
        served.footprint.load_s = 0.02
    for name in "ab":
        scheduler.assume_resident("d", name, 100)
    return scheduler


def wait(scheduler: Scheduler, model: str, rows: int, now: float) -> None:
    for _ in range(rows):
        assert isinstance(scheduler.offer(QueueRequest(model=model, rows=1, arrival=now), now), int)


def serve(scheduler: Scheduler, model: str, now: float) -> None:
    """One batch of it, from its arrival to its end."""
    wait(scheduler, model, 1, now)
    batch = scheduler.next(now).action
    assert isinstance(batch, Batch)
    scheduler.batch_ended(batch, 0.01, 0, now + 0.01)


def test_b4_the_longest_queue_is_first_where_loads_overlap_batches_too() -> None:
    scheduler = two_in_memory_for_two("Longest")
    wait(scheduler, "a", 2, 0.0)
    wait(scheduler, "c", 9, 0.001)
    first = scheduler.next(0.002).action
    assert isinstance(first, LoadModel)
    assert first.model == "c"


def test_b4_the_queue_served_longest_ago_is_first_where_loads_overlap_batches_too() -> None:
    scheduler = two_in_memory_for_two("Oldest")
    serve(scheduler, "a", 0.0)
    wait(scheduler, "a", 9, 1.0)
    wait(scheduler, "c", 1, 1.001)
    first = scheduler.next(1.002).action
    assert isinstance(first, LoadModel)
    assert first.model == "c"


def test_by_default_a_resident_model_does_not_wait_for_loads_that_take_no_device_time() -> None:
    scheduler = two_in_memory_for_two("Balanced")
    wait(scheduler, "c", 9, 0.0)
    wait(scheduler, "a", 2, 0.001)
    assert isinstance(scheduler.next(0.002).action, Batch)


@pytest.mark.parametrize(("eviction", "victim"), [("LeastRecentlyUsed", "a"), ("LeastWorth", "b")])
def test_b5_what_makes_room_is_selectable(eviction: Eviction, victim: str) -> None:
    """`a` is asked for often, but `b` was served last."""
    scheduler = two_in_memory_for_two("Longest", eviction)
    serve(scheduler, "b", 0.0)
    for number in range(1, 20):
        serve(scheduler, "a", 0.1 * number)
    serve(scheduler, "b", 2.1)
    wait(scheduler, "c", 1, 2.2)
    load = scheduler.next(2.2).action
    assert isinstance(load, LoadModel)
    assert load.unload == (victim,)


# --- A6 to A8

LINE = fit((n, 0.010 + 0.002 * n) for n in (1, 2, 4, 8, 16, 32) for _ in range(3))
LITERAL = TuningConfig(latency_s=0.1, throughput=300, step=2, controller="Literal", max_size=64)


def seen(latency_s: float, offered: float = 500, served: float = 200) -> WindowFacts:
    return WindowFacts(
        seconds=1.0,
        requests=100,
        batches=20,
        running=True,
        latency_s=latency_s,
        batch_s=0.02,
        mean_rows=4,
        full_ratio=1,
        busy=1,
        offered=offered,
        served=served,
    )


@pytest.mark.parametrize(("latency_s", "size"), [(0.05, 10), (0.0999, 10), (0.1001, 6), (0.3, 6)])
def test_a6_below_the_target_a_step_up_above_it_a_step_down(latency_s: float, size: int) -> None:
    decision = decide(LITERAL, TunerState(size=8), seen(latency_s), UNKNOWN)
    assert (decision.size, decision.rule) == (size, "Step")


@pytest.mark.parametrize(("start", "latency_s", "size"), [(1, 0.3, 1), (64, 0.5, 62), (63, 0.25, 61)])
def test_a6_stays_within_its_bounds(start: int, latency_s: float, size: int) -> None:
    assert decide(LITERAL, TunerState(size=start), seen(latency_s), UNKNOWN).size == size


def test_a8_throughput_is_batch_size_divided_by_latency() -> None:
    decision = decide(LITERAL, TunerState(size=8), seen(0.04), UNKNOWN)
    assert decision.published_throughput == pytest.approx(200)
    assert (decision.target_met, decision.reason) == (False, "ThroughputBelowTarget")


def test_a8_once_both_are_met_the_size_is_held_until_one_is_missed() -> None:
    met = decide(LITERAL, TunerState(size=16), seen(0.05), UNKNOWN)
    assert (met.size, met.rule, met.reason, met.target_met) == (16, "StopRule", "TargetMet", True)
    assert decide(LITERAL, met.tuner, seen(0.052), UNKNOWN).size == 16
    missed = decide(LITERAL, met.tuner, seen(0.06), UNKNOWN)
    assert (missed.size, missed.rule, missed.target_met) == (18, "Step", False)


def test_a8_does_not_hold_a_size_that_could_not_serve_what_is_asked_for() -> None:
    """Ours: nobody offers 400/s now, so no target is missed; but at 5 rows the device could serve 250/s only."""
    config = TuningConfig(throughput=400, controller="Auto")
    decision = decide(config, TunerState(size=5), seen(0.02, offered=100, served=100), LINE)
    assert decision.target_met is True
    assert (decision.reason, decision.rule) == ("ThroughputBelowTarget", "FittedStep")
    assert LINE.rows_per_second(decision.size) > 400


WANTS_30 = replace(seen(0.3), mean_rows=30)


@pytest.mark.parametrize("controller", ["Auto", "MannKendall", "Fitted", "Literal"])
def test_a7_no_controller_moves_against_the_trend(controller: str) -> None:
    """Seven windows have wanted less and less; one wants more."""
    config = replace(LITERAL, controller=controller, latency_s=0.1 if controller != "Literal" else 1.0, throughput=900)
    falling = TunerState(size=20, proposals=(34, 32, 30, 28, 26, 24, 22))
    decision = decide(config, falling, WANTS_30, LINE)
    assert decision.proposed > 20
    assert (decision.size, decision.rule, decision.reason) == (20, "TrendGuard", "TrendDisagrees")
    assert decision.trend.z < 0


def test_a7_a_size_held_for_long_has_no_trend_and_follows_at_once() -> None:
    config = TuningConfig(latency_s=0.1)
    held = TunerState(size=8, proposals=(8,) * 7, searching=False, settled_offered=50, settled_batch_s=0.026)
    decision = decide(config, held, seen(0.3, offered=100, served=100), LINE)
    assert (decision.size, decision.rule) == (20, "FittedStep")
    assert decision.trend == mann_kendall((8,) * 7 + (20,))
