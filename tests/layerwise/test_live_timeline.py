"""A timeline beside an executor: measured times take the place of planned ones (late binding)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright_worker.layerwise.core.policy import Balanced, Literal
from batchwright_worker.layerwise.core.scheduler import LayerScheduler
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Layer, ModelRequest, Prefetch, UnknownPlacement
from tests.layerwise.instances import GOLDEN, layers

TIMES = st.integers(0, 9)
PAIRS = st.lists(st.tuples(TIMES, TIMES, TIMES, TIMES, st.integers(0, 6)), min_size=1, max_size=12)


def live(budget: float = 6, prefetch: Prefetch = Prefetch.WHOLE) -> Timeline:
    """An executor's timeline from 0."""
    return Timeline(budget, prefetch=prefetch, live=True)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.sampled_from(Prefetch))
def test_measured_times_leave_the_state_that_they_would_have_made(
    given_layers: Sequence[tuple[int, int, int, int, int]], prefetch: Prefetch
) -> None:
    """Whatever was planned: once every layer is corrected, the next estimate is that of the true durations."""
    true, planned = Timeline(6, prefetch=prefetch), live(prefetch=prefetch)
    pushed = []
    for compute, fetch, planned_compute, planned_fetch, size in given_layers:
        was = true.push(Layer(compute=compute, fetch=fetch, bytes=size), 0)
        held = planned.push(Layer(compute=planned_compute, fetch=planned_fetch, bytes=size), 0)
        pushed.append((held.sequence, was))
    for sequence, was in pushed:
        planned.correct(sequence, fetch_start=was.fetch_start, fetch_end=was.fetch_end)
    for sequence, was in pushed:
        planned.correct(sequence, compute_start=was.compute_start, compute_end=was.compute_end)
    assert (planned.memory_free, planned.compute_free) == (true.memory_free, true.compute_free)
    for probe in layers((1, 2, 6), (3, 1, 1), (1, 9, 3)):
        assert planned.probe(probe, 0) == true.probe(probe, 0)


def test_a_late_compute_moves_all_that_waits_for_its_room() -> None:
    timeline = live()
    first = timeline.push(Layer(compute=4, fetch=1, bytes=4), 0)
    second = timeline.push(Layer(compute=1, fetch=4, bytes=4), 0)
    assert (second.fetch_start, second.compute_end) == (5, 10)
    timeline.correct(first.sequence, compute_end=8)
    assert (timeline.memory_free, timeline.compute_free) == (12, 13)


def test_nothing_that_is_not_measured_is_over_yet() -> None:
    timeline = live()
    timeline.push(Layer(compute=4, fetch=1, bytes=4), 0)
    timeline.advance(7)
    assert (timeline.memory_free, timeline.compute_free) == (7, 11)
    assert timeline.probe(Layer(compute=1, fetch=4, bytes=4), 0) == (4, 4)


def test_no_fetch_starts_in_the_past() -> None:
    timeline = live()
    timeline.advance(9)
    placed = timeline.push(Layer(compute=4, fetch=1, bytes=4), 2)
    assert (placed.fetch_start, placed.idle.compute) == (9, 10)


def test_a_dropped_layer_gives_its_place_back() -> None:
    timeline = live()
    timeline.push(Layer(compute=4, fetch=1, bytes=4), 0)
    dropped = timeline.push(Layer(compute=1, fetch=4, bytes=4), 0)
    timeline.drop(dropped.sequence)
    assert (timeline.memory_free, timeline.compute_free) == (1, 5)
    with pytest.raises(UnknownPlacement, match="layer number 1 is not in flight"):
        timeline.correct(dropped.sequence, fetch_end=3)


def test_only_layers_in_flight_are_remembered() -> None:
    timeline = live()
    for number in range(200):
        placed = timeline.push(Layer(compute=2, fetch=2, bytes=1), 0)
        timeline.correct(placed.sequence, fetch_end=2 * number + 2, compute_end=2 * number + 4)
    assert len(list(timeline.in_flight())) <= 2


def test_an_executor_that_is_on_time_gets_the_plans_schedule() -> None:
    """Deciding one layer at a time, told the planned times as measured, gives what a plan gives."""
    plan = LayerScheduler(Timeline(6), Balanced(16, 6))
    executor = LayerScheduler(live(), Balanced(16, 6))
    for order, (model, given_layers) in enumerate(GOLDEN.items()):
        for scheduler in (plan, executor):
            scheduler.submit(ModelRequest(model=model, layers=given_layers, arrival=0, order=order))
    while (step := plan.step()) is not None:
        taken = executor.decide(executor.timeline.memory_free)
        assert taken == step
        times = step.placement
        executor.timeline.correct(times.sequence, fetch_end=times.fetch_end, compute_end=times.compute_end)
    assert executor.decide(100) is None


def test_a_request_can_be_withdrawn_until_its_first_layer_is_picked() -> None:
    scheduler = LayerScheduler(live(), Literal(0))
    for order in range(3):
        scheduler.submit(ModelRequest(model="A", layers=GOLDEN["A"], arrival=0, order=order))
    assert scheduler.decide(0) is not None
    assert not scheduler.ready.withdraw("A", 0)
    assert scheduler.ready.withdraw("A", 2)
    assert not scheduler.ready.withdraw("A", 2)
    assert len(scheduler.ready) == 2


def test_a_request_that_arrived_earlier_goes_first_even_if_submitted_later() -> None:
    scheduler = LayerScheduler(live(), Literal(0))
    scheduler.submit(ModelRequest(model="A", layers=GOLDEN["A"], arrival=5, order=0))
    scheduler.submit(ModelRequest(model="A", layers=GOLDEN["A"], arrival=3, order=1))
    assert scheduler.decide(2) is None
    step = scheduler.decide(6)
    assert step is not None
    assert step.decision.request.order == 1
