"""The executor when something fails, at each phase of a unit, in one batch or for good; how far ahead it decides."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from batchwright_worker.layerwise.core.policy import Balanced, Fifo, Literal, Policy
from batchwright_worker.layerwise.core.values import Layer, Prefetch
from batchwright_worker.layerwise.execution.emulated import EmulatedAccelerator
from batchwright_worker.layerwise.execution.executor import Executor, ExecutorBrokenError
from batchwright_worker.layerwise.execution.jobs import LayerwiseBatch, UnitJob, UnitRecord

BUDGET = 8


def units(count: int, size: int = 2) -> tuple[Layer, ...]:
    return (Layer(compute=0, fetch=0, bytes=size),) * count


class Rig:
    """A device without times, an executor, and what it told."""

    def __init__(self, policy: Policy | None = None, budget: int = BUDGET) -> None:
        self.device = EmulatedAccelerator(budget)
        self.records: list[UnitRecord] = []
        self.settled: list[LayerwiseBatch] = []
        self.released: list[LayerwiseBatch] = []
        self.broken: list[BaseException] = []
        self.device.release = self.released.append  # type: ignore[method-assign]
        self.executor = Executor(self.device, policy or Literal(skip_limit=4), self.records.append, self.broken.append)

    def batch(self, model: str, layers: tuple[Layer, ...]) -> LayerwiseBatch:
        return LayerwiseBatch(model=model, inputs={}, rows=1, layers=layers, settled=self.settled.append)

    def submit(self, *batches: LayerwiseBatch) -> None:
        with self.executor.deciding_paused():
            for batch in batches:
                self.executor.submit(batch)

    def before(self, place: Any, name: str, hook: Callable[[Any], object]) -> None:
        """Call the hook with what a method of the device is given, then the method."""
        method = getattr(place, name)

        def hooked(given: Any) -> Any:
            hook(given)
            return method(given)

        setattr(place, name, hooked)


def until(condition: Callable[[], bool]) -> None:
    """Polls: what is waited for happens on another thread, which tells nobody."""
    for _ in range(4000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not come about")


PHASES = ("memory.start", "memory.finish", "compute.start", "compute.finish", "release")


@pytest.mark.parametrize("prefetch", list(Prefetch))
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_device_that_fails_in_any_phase_leaves_every_batch_settled_once(
    phase: str, at: int, prefetch: Prefetch
) -> None:
    rig, calls = Rig(), [0]
    rig.executor.use(rig.executor.policy, prefetch)
    *engine, method = phase.split(".")

    def fail(_given: object) -> None:
        calls[0] += 1
        if calls[0] > (at if engine else 0):
            raise SystemError("the device is gone")

    rig.before(getattr(rig.device, engine[0]) if engine else rig.device, method, fail)
    batches = [rig.batch(model, units(4)) for model in "ABCA"]
    rig.submit(*batches)
    rig.executor.close()
    assert sorted(map(id, rig.settled)) == sorted(map(id, batches))
    assert any(isinstance(batch.error, SystemError) for batch in batches)
    [error] = rig.broken
    assert str(error) == "the device is gone"
    with pytest.raises(ExecutorBrokenError):
        rig.executor.submit(rig.batch("A", units(1)))


def test_inputs_that_cannot_be_staged_are_their_callers_alone() -> None:
    rig = Rig()

    def refuse(batch: LayerwiseBatch) -> None:
        if batch.model == "B":
            raise ValueError("no such input")

    rig.before(rig.device, "begin", refuse)
    good = rig.batch("A", units(4))
    rig.submit(good)
    with pytest.raises(ValueError, match="no such input"):
        rig.executor.submit(rig.batch("B", units(4)))
    rig.executor.close()
    assert rig.settled == [good]
    assert rig.broken == []


def failing(rig: Rig, model: str, position: int) -> None:
    """This unit of this model fails."""

    def fail(job: UnitJob) -> None:
        if (job.batch.model, job.position) == (model, position):
            job.error = ArithmeticError("bad rows")

    rig.before(rig.device.compute, "finish", fail)


@pytest.mark.parametrize("position", range(4))
def test_what_a_failed_batch_did_not_do_is_no_measurement(position: int) -> None:
    """Its units pass through in no time; a plan that learned from them would take the model for a fast one."""
    rig = Rig()
    failing(rig, "B", position)
    batches = [rig.batch(model, units(4)) for model in "ABA"]
    rig.submit(*batches)
    rig.executor.close()
    assert [record.position for record in rig.records if record.model == "B"] == list(range(position))
    assert rig.executor.totals.units == len(rig.records) == 8 + position
    assert sorted(map(id, rig.released)) == sorted(map(id, batches))
    assert [batch.error is None for batch in batches] == [True, False, True]
    assert rig.device.ring.used == 0


def test_a_model_whose_batch_failed_is_here_until_its_last_unit_has_passed() -> None:
    """Who removes it waits for that: both engines still look at its network."""
    rig, here = Rig(Fifo(), budget=4), list[bool]()
    failing(rig, "B", 0)

    def hold(job: UnitJob) -> None:
        if job.position == 1:
            until(lambda: job.batch.given_up)
            here.append(not rig.executor.wait_begun(0))

    rig.before(rig.device.compute, "finish", hold)
    batch = rig.batch("B", units(6))
    rig.submit(batch)
    rig.executor.wait_idle("B")
    assert here == [True]
    assert batch.on_its_way == 0
    assert rig.released == [batch]
    rig.executor.close()


def test_no_more_is_decided_than_hides_any_fetch() -> None:
    """Of 300 units of one byte, all of which have room."""
    rig, waiting = Rig(budget=300), list[int]()

    def look(job: UnitJob) -> None:
        if not job.position:
            until(lambda: len(rig.executor._to_compute) >= 64)
        waiting.append(len(rig.executor._to_compute))

    rig.before(rig.device.compute, "start", look)
    rig.submit(rig.batch("A", units(300, 1)))
    rig.executor.close()
    assert [record.position for record in rig.records] == list(range(300))
    assert max(waiting) <= 66


def test_who_comes_later_does_not_wait_behind_all_that_needs_no_fetch() -> None:
    """A model that is in memory as a whole: being ahead would gain nothing."""
    rig, begun, let = Rig(Balanced(skip_limit=4, fill_time=1)), threading.Event(), threading.Event()

    def wait(_job: UnitJob) -> None:
        begun.set()
        assert let.wait(20)

    rig.before(rig.device.compute, "start", wait)
    rig.submit(rig.batch("A", units(100, 0)))
    assert begun.wait(20)
    rig.submit(rig.batch("B", units(1, 0)))
    let.set()
    rig.executor.close()
    assert [record.model for record in rig.records].index("B") < 20
