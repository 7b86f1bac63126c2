"""Where loads overlap batches, or batches each other: rows that a runtime was lost under run beside nothing, so that
the next loss has one cause."""

from __future__ import annotations

import pytest

from batchwright_worker.inference.runtime import LoadReport, MemoryReport
from batchwright_worker.scheduler.batch_size.tuning import TuningConfig
from batchwright_worker.scheduler.devices import DeviceConfig
from batchwright_worker.scheduler.dispatch import LoadModel, Nothing
from batchwright_worker.scheduler.queues import IsolatedBucket, QueuedRequest
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ModelConfig
from batchwright_worker.scheduler.steps import Batch, QueueRequest

REPORT = LoadReport(memory_bytes=1, bytes_per_row=0, seconds=0.1, inputs=(), outputs=())


def scheduler(*, interleaves: bool = False) -> Scheduler:
    """`here` and `other` are in memory, `away` is not."""
    made = Scheduler()
    depth = 6 if interleaves else 2
    device = DeviceConfig(name="d", kind="cpu", overlaps_loads=True, depth=depth, interleaves=interleaves)
    made.add_device(device, up=True)
    made.memory_measured("d", MemoryReport(total_bytes=100, used_bytes=0, free_bytes=100))
    for name in ("here", "other", "away"):
        made.add_model(ModelConfig(name=name, tuning=TuningConfig(max_size=8), load_bytes=1), 0.0)
    for name in ("here", "other"):
        made.assume_resident("d", name, 1)
    return made


def begun(made: Scheduler, model: str, now: float = 0.0) -> Batch:
    """The next thing that begins is a batch of this model."""
    batch = made.next(now).action
    assert isinstance(batch, Batch)
    assert batch.run.model == model
    return batch


def nothing_begins(made: Scheduler, now: float = 0.0) -> None:
    assert isinstance(made.next(now).action, Nothing)


def suspect(made: Scheduler, model: str = "here") -> None:
    made.requeue(QueuedRequest(key=0, rows=1, arrival=0.0, bucket=IsolatedBucket((), 1)), model)


def wanted(made: Scheduler, model: str) -> None:
    made.offer(QueueRequest(model=model, rows=1, arrival=0.0), 0.0)


def test_no_load_begins_beside_isolated_rows() -> None:
    made = scheduler()
    suspect(made)
    batch = made.next(0.0).action
    assert isinstance(batch, Batch)
    wanted(made, "away")
    assert isinstance(made.next(0.0).action, Nothing)
    made.batch_ended(batch, 0.01, 0, 0.01)
    assert isinstance(made.next(0.01).action, LoadModel)


def test_isolated_rows_wait_for_the_end_of_a_load_and_other_rows_do_not() -> None:
    made = scheduler()
    wanted(made, "away")
    load = made.next(0.0).action
    assert isinstance(load, LoadModel)
    suspect(made)
    assert isinstance(made.next(0.0).action, Nothing)
    made.load_ended(load, REPORT, 0.1)
    first, second = made.next(0.1).action, made.next(0.1).action
    assert isinstance(first, Batch)
    assert isinstance(second, Nothing)


def test_other_rows_run_beside_a_load() -> None:
    made = scheduler()
    wanted(made, "away")
    assert isinstance(made.next(0.0).action, LoadModel)
    wanted(made, "here")
    assert isinstance(made.next(0.0).action, Batch)


def test_where_batches_interleave_isolated_rows_run_beside_no_batch() -> None:
    made = scheduler(interleaves=True)
    wanted(made, "other")
    running = begun(made, "other")
    suspect(made)
    nothing_begins(made)
    made.batch_ended(running, 0.01, 0, 0.01)
    alone = begun(made, "here", 0.01)
    wanted(made, "other")
    wanted(made, "away")
    nothing_begins(made, 0.01)
    made.batch_ended(alone, 0.01, 0, 0.02)
    begun(made, "other", 0.02)
    assert isinstance(made.next(0.02).action, LoadModel)


def test_batches_that_follow_each_other_keep_isolated_rows_waiting_for_one_round_alone() -> None:
    """`other` and `here` always have rows that could begin before what is in flight has ended."""
    made = scheduler(interleaves=True)
    wanted(made, "other")
    first = begun(made, "other")
    wanted(made, "here")
    second = begun(made, "here")
    suspect(made)
    for ended in (first, second):
        wanted(made, "other")
        wanted(made, "away")
        nothing_begins(made)
        made.batch_ended(ended, 0.01, 0, 0.01)
    assert isinstance(begun(made, "here", 0.01).run.bucket, IsolatedBucket)


def test_isolated_rows_of_a_model_that_is_not_there_keep_nobody_waiting() -> None:
    made = scheduler(interleaves=True)
    suspect(made, "away")
    wanted(made, "here")
    begun(made, "here")
    assert isinstance(made.next(0.0).action, LoadModel)
    wanted(made, "other")
    begun(made, "other")


@pytest.mark.parametrize("interleaves", [False, True])
def test_a_load_that_waits_for_another_keeps_back_loads_alone(interleaves: bool) -> None:
    made = scheduler(interleaves=interleaves)
    made.reserve("d", True)
    wanted(made, "away")
    nothing_begins(made)
    wanted(made, "other")
    begun(made, "other")
    made.release("d", True)
    assert isinstance(made.next(0.0).action, LoadModel)


@pytest.mark.parametrize("interleaves", [False, True])
def test_isolated_rows_come_before_a_load_that_nobody_waits_for(interleaves: bool) -> None:
    made = scheduler(interleaves=interleaves)
    suspect(made)
    made.reserve("d", True)
    assert isinstance(made.plan_load("away", 0.0), str)
    assert not made.devices["d"].settled
    ended = begun(made, "here")
    assert isinstance(made.plan_load("away", 0.0), str)
    made.batch_ended(ended, 0.01, 0, 0.01)
    assert isinstance(made.plan_load("away", 0.01), LoadModel)


def test_an_unload_that_waits_keeps_everything_back() -> None:
    made = scheduler(interleaves=True)
    made.reserve("d")
    wanted(made, "other")
    nothing_begins(made)
    made.release("d")
    begun(made, "other")
