"""Where loads overlap batches: rows that a runtime was lost under run beside no load, so that the next loss has one
cause."""

from __future__ import annotations

from batchwright_worker.inference.runtime import LoadReport, MemoryReport
from batchwright_worker.scheduler.batch_size.tuning import TuningConfig
from batchwright_worker.scheduler.devices import DeviceConfig
from batchwright_worker.scheduler.dispatch import LoadModel, Nothing
from batchwright_worker.scheduler.queues import IsolatedBucket, QueuedRequest
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ModelConfig
from batchwright_worker.scheduler.steps import Batch, QueueRequest

REPORT = LoadReport(memory_bytes=1, bytes_per_row=0, seconds=0.1, inputs=(), outputs=())


def scheduler() -> Scheduler:
    """`here` is in memory, `away` is not."""
    made = Scheduler()
    made.add_device(DeviceConfig(name="d", kind="cpu", overlaps_loads=True, depth=2), up=True)
    made.memory_measured("d", MemoryReport(total_bytes=100, used_bytes=0, free_bytes=100))
    for name in ("here", "away"):
        made.add_model(ModelConfig(name=name, tuning=TuningConfig(max_size=8), load_bytes=1), 0.0)
    made.assume_resident("d", "here", 1)
    return made


def suspect(made: Scheduler) -> None:
    made.requeue(QueuedRequest(key=0, rows=1, arrival=0.0, bucket=IsolatedBucket((), 1)), "here")


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
