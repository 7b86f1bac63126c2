"""The callers' own deadlines: answered at their time, wherever the request stands."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import numpy as np
import pytest

from batchwright_worker.inference.errors import DeadlineExceeded, InferenceError, Refused
from batchwright_worker.inference.requests import InferResult
from tests.engine.devices import FakeDevice, engine_of, model, request
from tests.engine.virtual import run


async def _answer_time(engine: Any, deadline_s: float, **fields: Any) -> float:
    """Seconds from now to the DeadlineExceeded."""
    began = engine.clock()
    with pytest.raises(DeadlineExceeded):
        await engine.infer(request(engine, 1.0, deadline=began + deadline_s, **fields))
    return float(engine.clock() - began)


@pytest.mark.parametrize("ahead", [1, 2, 3], ids=["in the next batch", "behind the next", "further behind"])
def test_a_request_behind_long_batches_is_answered_at_its_deadline(ahead: int) -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(max_size=1, initial_size=1)], device)
        await engine.start()
        device.fixed_s = 2.0  # nothing has told the fit
        blocking = [asyncio.ensure_future(engine.infer(request(engine, 1.0))) for _ in range(ahead)]
        await asyncio.sleep(0.001)
        assert await _answer_time(engine, 0.5) == pytest.approx(0.5, abs=0.002)
        await asyncio.gather(*blocking)
        await engine.close()

    run(scenario())


def test_a_request_in_a_batch_that_takes_too_long_is_answered_at_its_deadline_and_the_result_is_dropped() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(max_size=4, initial_size=4)], device)
        await engine.start()
        device.fixed_s = 2.0
        answers: list[InferResult | InferenceError] = []
        now = engine.clock()
        engine.submit(request(engine, 7.0, deadline=now + 0.5), answers.append)
        patient = asyncio.ensure_future(engine.infer(request(engine, 8.0)))
        await asyncio.sleep(0.6)
        assert [type(answer) for answer in answers] == [DeadlineExceeded]
        assert np.array_equal((await patient).outputs["y"][:, 0], [80.0])
        assert len(answers) == 1
        assert engine.counters["m"].refused["Deadline"] == 1
        assert engine.counters["m"].pending == 0
        await engine.close()

    run(scenario())


def test_a_request_behind_a_load_is_answered_at_its_deadline() -> None:
    async def scenario() -> None:
        device = FakeDevice(total_bytes=100, load_s=0.01)
        engine = engine_of([model("m"), model("n")], device)
        await engine.start()
        cold = "m" if "n" in device.resident else "n"
        device.load_s = 3.0
        assert await _answer_time(engine, 0.25, model_name=cold) == pytest.approx(0.25, abs=0.002)
        await engine.close()

    run(scenario())


def test_many_deadlines_are_each_answered_at_their_own_time() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(max_size=2, initial_size=2)], device)
        await engine.start()
        device.fixed_s = 5.0
        blocking = asyncio.ensure_future(engine.infer(request(engine, 1.0)))
        await asyncio.sleep(0.001)
        wanted = [0.5 + 0.01 * (i * 17 % 40) for i in range(40)]
        times = await asyncio.gather(*(_answer_time(engine, seconds) for seconds in wanted))
        assert times == pytest.approx(wanted, abs=0.002)
        await blocking
        await engine.close()

    run(scenario())


def test_answered_requests_leave_nothing_behind_in_the_timer() -> None:
    async def scenario() -> None:
        engine = engine_of([model(max_size=32, initial_size=32)], FakeDevice())
        await engine.start()
        kept: list[weakref.ref[Any]] = []
        for _ in range(200):
            wanted = request(engine, 1.0, deadline=engine.clock() + 3600)
            kept.append(weakref.ref(wanted.inputs["x"]))
            await engine.infer(wanted)
            del wanted
        gc.collect()
        assert sum(one() is not None for one in kept) <= 1
        assert len(engine._deadlines._heap) <= 130
        await engine.close()

    run(scenario())


@pytest.mark.parametrize(
    ("deadline_s", "error"), [(None, Refused), (10.0, Refused), (0.09, DeadlineExceeded)], ids=["none", "far", "near"]
)
def test_who_is_late_by_the_latency_target_alone_may_ask_elsewhere(
    deadline_s: float | None, error: type[Exception]
) -> None:
    """A row that waits is given up because of a batch before it that took far longer than predicted."""

    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(max_size=1, initial_size=1, latency=100)], device)
        await engine.start()
        device.fixed_s = 0.095
        first = asyncio.ensure_future(engine.infer(request(engine, 1.0)))
        await asyncio.sleep(0.001)
        due = None if deadline_s is None else engine.clock() + deadline_s
        with pytest.raises(error) as refused:
            await engine.infer(request(engine, 2.0, deadline=due))
        assert type(refused.value) is error
        await first
        await engine.close()

    run(scenario())
