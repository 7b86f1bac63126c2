"""Priorities at admission, in a full queue, in batches and between models; large requests that share by turns."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.api.deployment import QueueOrder
from batchwright_worker.inference.runtime import MemoryReport
from batchwright_worker.scheduler.batch_size.tuning import TuningConfig
from batchwright_worker.scheduler.devices import DeviceConfig
from batchwright_worker.scheduler.queues import ModelQueue, QueuedRequest, level_of
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ModelConfig
from batchwright_worker.scheduler.simulator import Arrival, SimulatedDevice, Simulation, SimulationReport, poisson
from batchwright_worker.scheduler.steps import Batch, QueueRequest, Refusal

SECONDS = 10.0


def device(depth: int = 2) -> SimulatedDevice:
    return SimulatedDevice(
        seconds=lambda _model, rows, _now: 0.010 + 0.002 * rows, depth=depth, there_s=0.0007, back_s=0.0007
    )


def config(name: str = "m", latency_s: float | None = 0.1, queue_limit: int = 10_000) -> ModelConfig:
    tuning = TuningConfig(max_size=32, latency_s=latency_s)
    return ModelConfig(name=name, tuning=tuning, queue_limit=queue_limit)


def overloaded(urgent_model: str = "m", share: float = 0.05, order: QueueOrder = "Balanced") -> SimulationReport:
    """860 requests/s for a device that answers 420 in time; so many of them with priority 1, the others with 10."""
    low = poisson(860 * (1 - share), SECONDS, random.Random(1), "m", 10)
    high = poisson(860 * share, SECONDS, random.Random(2), urgent_model, 1)
    models = [config(name) for name in dict.fromkeys(("m", urgent_model))]
    merged = heapq.merge(low, high, key=lambda arrival: arrival.time)
    return Simulation(models=models, devices=[device()], order=order).run(merged, SECONDS)


def in_time(report: SimulationReport, priority: int) -> float:
    """Share of the requests of this priority; refusals count as misses."""
    fates = [fate for fate in report.done if fate.arrival.priority == priority]
    return sum(fate.outcome == "Answered" and fate.latency_s <= 0.1 for fate in fates) / len(fates)


@pytest.mark.parametrize("order", get_args(QueueOrder))
@pytest.mark.parametrize("urgent_model", ["m", "n"])
def test_at_twice_the_load_that_can_be_served_the_highest_priority_is_served(
    urgent_model: str, order: QueueOrder
) -> None:
    assert in_time(overloaded(urgent_model, order=order), 1) >= 0.99


def test_it_costs_the_others_little_more_than_the_device_time_that_it_takes() -> None:
    plain, mixed = overloaded(share=1e-9), overloaded()
    assert mixed.in_time_per_second(0.1) > 0.95 * plain.in_time_per_second(0.1)


def test_an_urgent_model_of_few_rows_does_not_cost_the_others_the_device() -> None:
    plain, mixed = overloaded(share=1e-9), overloaded("n")
    assert in_time(mixed, 1) >= 0.99
    # Strictly first, its rows would be served one by one, and 71 % of these answers would be left.
    assert mixed.in_time_per_second(0.1) > 0.84 * plain.in_time_per_second(0.1)


def scheduler(*models: ModelConfig, order: QueueOrder = "Balanced") -> Scheduler:
    made = Scheduler(order=order)
    made.add_device(DeviceConfig(name="d", kind="test"), up=True)
    made.memory_measured("d", MemoryReport(total_bytes=0, used_bytes=0, free_bytes=0))
    for model in models:
        made.add_model(model, 0.0)
        for rows in (1, 2, 4, 8, 16, 32):
            made.warm_up_ran(model.name, rows, 0.010 + 0.002 * rows, 0)
        made.warmed_up(model.name)
        made.assume_resident("d", model.name, 0)
    return made


def offer(made: Scheduler, priority: int = 0, rows: int = 1, model: str = "m", now: float = 0.0) -> int | Refusal:
    return made.offer(QueueRequest(model=model, rows=rows, arrival=now, priority=priority), now)


def test_a_full_queue_makes_room_for_a_higher_priority_and_for_no_equal_one() -> None:
    made = scheduler(config(latency_s=None, queue_limit=6))
    low = [offer(made, 10) for _ in range(3)]
    middle = [offer(made, 5) for _ in range(3)]
    refused = offer(made, 10)
    assert isinstance(refused, Refusal)
    assert refused.reason == "QueueFull"
    assert isinstance(offer(made, 1, rows=2), int)
    step = made.next(0.0)
    assert step.displaced == (low[2], low[1])
    assert isinstance(step.action, Batch)
    taken = [part.key for part in step.action.slices]
    assert taken[1:] == [*middle, low[0]]
    assert made.next(0.0).displaced == ()


def test_nobody_is_displaced_for_a_request_that_finds_no_room_all_the_same() -> None:
    made = scheduler(config(latency_s=None, queue_limit=6))
    for priority in (1, 1, 1, 1, 10):
        offer(made, priority)
    assert isinstance(offer(made, 5, rows=4), Refusal)
    assert made.next(0.0).displaced == ()


@pytest.mark.parametrize("order", get_args(QueueOrder))
def test_between_models_the_higher_priority_goes_first_in_every_order(order: QueueOrder) -> None:
    made = scheduler(config("m", None), config("n", None), order=order)
    for _ in range(20):
        offer(made, 0, model="m", now=0.0)
    offer(made, 1, model="n", now=0.001)
    step = made.next(0.001)
    assert isinstance(step.action, Batch)
    assert step.action.run.model == "n"


def shared_with(rows: int) -> SimulationReport:
    """One request of so many rows, and 60 single rows per second beside it."""
    small = poisson(60, SECONDS, random.Random(3))
    arrivals = heapq.merge([Arrival(0.5, rows=rows)] if rows else [], small, key=lambda arrival: arrival.time)
    return Simulation(models=[config(latency_s=None)], devices=[device()]).run(arrivals, SECONDS)


def test_single_rows_wait_for_a_batch_or_two_of_a_large_request_and_never_for_all_of_it() -> None:
    report = shared_with(3000)
    small = sorted(fate.latency_s for fate in report.answered() if fate.arrival.rows == 1)
    full_s = 0.010 + 0.002 * 32
    assert small[len(small) // 2] < 3 * full_s
    assert small[-1] < 5 * full_s
    (large,) = [fate for fate in report.answered() if fate.arrival.rows == 3000]
    # The rows of both, in batches as full as ever.
    rows = 3000 + sum(1 for fate in report.answered() if 0.5 < fate.arrival.time < large.end)
    assert large.latency_s < 1.1 * rows / 32 * full_s


def test_two_large_requests_share_and_neither_waits_for_the_other() -> None:
    arrivals = [Arrival(0.0, rows=1000), Arrival(0.001, rows=1000), Arrival(0.002, rows=64)]
    report = Simulation(models=[config(latency_s=None)], devices=[device()]).run(arrivals, SECONDS)
    ends = {fate.arrival.time: fate.end for fate in report.answered()}
    assert ends[0.002] < 0.25 * ends[0.0]
    assert 0.8 * ends[0.001] < ends[0.0] <= ends[0.001]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(1, 40), st.sampled_from([0, 0, 1, 9])),
            st.tuples(st.just("take"), st.integers(1, 16), st.just(0)),
            st.tuples(st.just("remove"), st.integers(0, 30), st.just(0)),
        ),
        max_size=60,
    )
)
def test_every_row_leaves_the_queue_once_and_the_counts_add_up(story: list[tuple[str, int, int]]) -> None:
    queue, keys = ModelQueue(model="m", limit=60), itertools.count(1)
    left: dict[int, list[int]] = {}
    for now, (what, number, priority) in enumerate(story):
        if what == "push" and (queue.has_room(number) or queue.can_displace(level_of(priority), number)):
            displaced = queue.displace(level_of(priority), number)
            assert all(left.pop(key) for key in displaced)
            assert queue.has_room(number)
            key, bucket = next(keys), number % 2
            entry = QueuedRequest(key=key, rows=number, arrival=float(now), priority=priority, bucket=bucket)
            entry.large, entry.drop_after = number > 16, None if number % 3 else 1e9
            queue.push(entry)
            left[key] = list(range(number))
        elif what == "take" and (wanted := queue.next_bucket()) is not None:
            waiting = queue.groups[wanted].rows
            slices = queue.take(wanted, number, float(now))
            assert sum(part.rows for part in slices) == min(number, waiting)
            assert len({part.key for part in slices}) == len(slices)
            for part in slices:
                assert left[part.key][: part.rows] == list(range(part.start, part.start + part.rows))
                del left[part.key][: part.rows]
                if not left[part.key]:
                    del left[part.key]
        elif what == "remove" and (wait := left.pop(number, None)) is not None:
            assert queue.remove(number) == len(wait)
        assert queue.rows == sum(map(len, left.values()))
        check(queue)


def check(queue: ModelQueue) -> None:
    for group in queue.groups.values():
        waiting = list(group.waiting())
        assert [entry.rank for entry in waiting] == sorted(entry.rank for entry in waiting)
        assert group.rows == sum(entry.left for entry in waiting) > 0
        assert group.large == sum(entry.large for entry in waiting)
        assert group.large_rows == sum(entry.left for entry in waiting if entry.large)
        assert group.bounded == sum(entry.drop_after is not None for entry in waiting)
        for priority in (1, 9, 0):
            level = level_of(priority)
            assert group.ahead(level) == sum(entry.left for entry in waiting if level_of(entry.priority) <= level)
