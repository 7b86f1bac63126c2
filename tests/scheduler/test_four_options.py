"""Method B5: the four options, what is unloaded, passing over, and properties of every decision."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.scheduler.devices import DeviceMemory, DeviceTimeline
from batchwright_worker.scheduler.dispatch import (
    PASS_LIMIT,
    DeviceView,
    LoadModel,
    Nothing,
    QueueView,
    ResidentView,
    RunBatch,
    decide,
    serve,
)


def device(
    name: str, free: int, *residents: ResidentView, total: int = 1000, idle: bool = True, busy: str = ""
) -> DeviceView:
    return DeviceView(
        name=name,
        idle=idle,
        loadable=idle,
        memory=DeviceMemory(total_bytes=total, free_bytes=free),
        timeline=DeviceTimeline(),
        residents={one.model: one for one in residents},
        busy_models=frozenset([busy] if busy else []),
    )


def holds(model: str, size: int = 100, keep: float = 0.0, *, fresh: bool = False) -> ResidentView:
    return ResidentView(model=model, memory_bytes=size, eviction_cost=keep, fresh=fresh)


def wants(model: str, rows: int = 8, load: int = 100, per_row: int = 10, passed: int = 0) -> QueueView:
    return QueueView(model=model, bucket=(), try_batch=rows, load_bytes=load, bytes_per_row=per_row, passed_over=passed)


def test_option_1_the_loaded_idle_device_with_most_free_memory() -> None:
    action = serve(wants("m"), [device("a", 50, holds("m")), device("b", 60, holds("m")), device("c", 900)])
    assert action == RunBatch(device="b", model="m", bucket=(), rows=6, unload=(), reason="LoadedAndIdle")


def test_option_2_after_unloading_only_as_many_as_needed() -> None:
    full = device("a", 0, holds("m"), holds("cheap", 50, 1), holds("dear", 50, 9), holds("cheapest", 50, 0.5))
    action = serve(wants("m"), [full, device("b", 900)])
    assert action == RunBatch(
        device="a", model="m", bucket=(), rows=8, unload=("cheapest", "cheap"), reason="LoadedAfterUnload"
    )


def test_option_3_free_memory_elsewhere() -> None:
    action = serve(wants("m"), [device("a", 900, holds("m"), idle=False), device("b", 150), device("c", 130)])
    assert action == LoadModel(device="b", model="m", bucket=(), rows=5, unload=(), reason="FreeMemory")


def test_option_4_elsewhere_after_unloading() -> None:
    action = serve(wants("m"), [device("a", 20, holds("x", 400, 5), holds("y", 300, 1))])
    assert action == LoadModel(device="a", model="m", bucket=(), rows=8, unload=("y",), reason="FreeAfterUnload")


def test_a_victim_that_a_larger_one_makes_needless_is_kept() -> None:
    action = serve(wants("m", rows=1), [device("a", 0, holds("small", 20, 1), holds("large", 500, 2))])
    assert isinstance(action, LoadModel)
    assert action.unload == ("large",)


def test_the_next_queue_is_tried_and_the_first_counts_as_passed_over() -> None:
    outcome = decide([wants("huge", load=5000), wants("m")], [device("a", 500, holds("m"))])
    assert isinstance(outcome.action, RunBatch)
    assert outcome.action.model == "m"
    assert outcome.passed_over == ("huge",)


def test_a_queue_passed_over_too_often_gets_the_next_fitting_device() -> None:
    large, small = (
        device("large", 0, holds("m", 900), idle=False, busy="m"),
        device("small", 100, holds("m"), total=200),
    )
    overdue = wants("big", load=800, passed=PASS_LIMIT)
    outcome = decide([wants("m"), overdue], [large, small])
    assert isinstance(outcome.action, RunBatch)
    assert outcome.action.device == "small"
    freed = device("large", 100, holds("m", 900))
    outcome = decide([wants("m"), overdue], [freed, small])
    assert isinstance(outcome.action, LoadModel)
    assert (outcome.action.device, outcome.action.model, outcome.action.unload) == ("large", "big", ("m",))


def test_a_model_loaded_for_waiting_rows_is_not_unloaded_before_it_served_them() -> None:
    fresh = device("a", 0, holds("new", 100, 0.0, fresh=True), total=100)
    outcome = decide([wants("m", per_row=0), wants("new", per_row=0)], [fresh])
    assert isinstance(outcome.action, RunBatch)
    assert outcome.action.model == "new"


def test_what_can_never_fit_says_so_with_numbers() -> None:
    outcome = decide([wants("huge", load=5000)], [device("a", 500)])
    assert isinstance(outcome.action, Nothing)
    assert outcome.action.why == {"huge": "huge and one row need 5010 bytes; the largest device has 1000"}


models = st.sampled_from("abcde")


@st.composite
def devices(draw: st.DrawFn) -> DeviceView:
    residents = {
        name: holds(name, draw(st.integers(0, 300)), draw(st.floats(0, 5)), fresh=draw(st.booleans()))
        for name in draw(st.sets(models))
    }
    used = sum(one.memory_bytes for one in residents.values())
    idle = draw(st.booleans())
    busy = draw(st.sampled_from(sorted(residents))) if residents and not idle else ""
    return DeviceView(
        name=draw(st.sampled_from("xyz")),
        idle=idle,
        loadable=idle,
        memory=DeviceMemory(
            total_bytes=used + 200,
            free_bytes=draw(st.integers(0, 200)),
            caps=draw(st.dictionaries(models, st.integers(1, 4))),
        ),
        timeline=DeviceTimeline(),
        residents=residents,
        busy_models=frozenset([busy] if busy else []),
    )


queues = st.lists(
    st.builds(
        QueueView,
        model=models,
        bucket=st.just(()),
        try_batch=st.integers(1, 40),
        load_bytes=st.integers(0, 400),
        bytes_per_row=st.integers(0, 30),
        passed_over=st.integers(0, 20),
    ),
    unique_by=lambda queued: queued.model,
    max_size=5,
)


@given(queues, st.lists(devices(), unique_by=lambda one: one.name, max_size=3))
def test_every_decision_fits_memory_and_touches_only_what_is_idle(
    queued: list[QueueView], there: list[DeviceView]
) -> None:
    action = decide(queued, there).action
    if isinstance(action, Nothing):
        overdue = any(queue.passed_over >= PASS_LIMIT for queue in queued)
        free = [one.unprotected() for one in there]
        assert overdue or all(isinstance(serve(queue, free), str) for queue in queued)
        return
    target = next(one for one in there if one.name == action.device)
    queue = next(one for one in queued if one.model == action.model)
    freed = sum(target.residents[name].memory_bytes for name in action.unload)
    load = queue.load_bytes if isinstance(action, LoadModel) else 0
    assert target.idle
    assert (action.model in target.residents) == isinstance(action, RunBatch)
    assert 1 <= action.rows <= min(queue.try_batch, target.memory.caps.get(queue.model, 1 << 60))
    last_resort = action.rows == 1 and target.alone(action.model, action.unload)
    assert last_resort or load + action.rows * queue.bytes_per_row <= target.memory.free_bytes + freed
    assert not set(action.unload) & (target.busy_models | {action.model})
    for name in action.unload:
        wanted = min(queue.try_batch, target.memory.caps.get(queue.model, 1 << 60))
        spared = target.memory.free_bytes + freed - target.residents[name].memory_bytes
        assert spared < load + wanted * queue.bytes_per_row


def _one(free: int, **residents: ResidentView) -> DeviceView:
    return device("d", free, *residents.values())


def _row(size: int) -> QueueView:
    return QueueView(model="a", bucket=(), try_batch=4, load_bytes=100, bytes_per_row=size)


def test_what_a_model_keeps_of_its_last_batch_is_room_for_its_next() -> None:
    device = _one(
        50, a=ResidentView(model="a", memory_bytes=700, retained_bytes=600), b=ResidentView(model="b", memory_bytes=250)
    )
    action = decide([_row(300)], [device]).action
    assert isinstance(action, RunBatch)
    assert (action.rows, action.unload) == (2, ())


def test_a_model_alone_on_its_device_tries_one_row_whatever_was_measured() -> None:
    action = decide([_row(300)], [_one(50, a=ResidentView(model="a", memory_bytes=950))]).action
    assert isinstance(action, RunBatch)
    assert action.rows == 1


def test_another_model_makes_room_before_a_row_is_tried_without() -> None:
    device = _one(0, a=ResidentView(model="a", memory_bytes=900), b=ResidentView(model="b", memory_bytes=100))
    action = decide([_row(300)], [device]).action
    assert isinstance(action, RunBatch)
    assert (action.rows, action.unload) == (1, ("b",))
