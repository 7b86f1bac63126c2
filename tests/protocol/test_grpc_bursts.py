"""Calls that arrive in a few rounds of the event loop are submitted together, and each gets its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import BadInput, InferenceError
from batchwright_worker.inference.requests import InferRequest, InferResult
from batchwright_worker.protocol.grpc.bursts import LONGEST_S, Bursts
from tests.engine.devices import FakeDevice, engine_of, model
from tests.engine.virtual import run

RESULT = InferResult(outputs={}, batch_size=1, queue_ms=0, run_ms=0)


class ManualEngine:
    """Takes requests, and refuses those for `bad`; a call of `clock` takes 10 us."""

    def __init__(self) -> None:
        self.submitted: list[InferRequest] = []
        self.cancelled: list[InferRequest] = []
        self.now = 0.0

    def clock(self) -> float:
        self.now += 1e-5
        return self.now

    def submit(self, request: InferRequest, done: Callable[[InferResult | InferenceError], None]) -> Any:
        if request.model == "bad":
            raise BadInput("bad")
        self.submitted.append(request)
        if request.model == "at once":
            done(RESULT)
        return request

    def cancel(self, request: Any) -> None:
        self.cancelled.append(request)


def request(name: str) -> InferRequest:
    return InferRequest(model=name, inputs={}, rows=1, arrival=0.0)


async def rounds(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_calls_of_a_few_rounds_are_one_burst() -> None:
    engine = ManualEngine()
    bursts = Bursts(cast(Engine, engine))
    for number in range(5):
        bursts.add(request(str(number)))
        await rounds(4)
        assert engine.submitted == []
    await rounds(10)
    assert [each.model for each in engine.submitted] == ["0", "1", "2", "3", "4"]


async def test_a_burst_has_an_end() -> None:
    engine = ManualEngine()
    bursts = Bursts(cast(Engine, engine))
    for _ in range(1000):
        bursts.add(request("m"))
        await rounds(1)
        if engine.submitted:
            break
    assert engine.now == pytest.approx(LONGEST_S, rel=0.05)


async def test_each_call_gets_its_own_outcome() -> None:
    engine = ManualEngine()
    bursts = Bursts(cast(Engine, engine))
    calls = [bursts.add(request(name)) for name in ("at once", "bad", "later", "gone")]
    bursts.cancel(calls[3])
    assert await calls[0].outcome is RESULT
    assert isinstance(await calls[1].outcome, BadInput)
    assert not calls[2].outcome.done()
    bursts.cancel(calls[2])
    assert [each.model for each in engine.submitted] == ["at once", "later"]
    assert [each.model for each in engine.cancelled] == ["later"]


def test_a_burst_shares_a_batch() -> None:
    async def scenario() -> None:
        engine = engine_of([model()], FakeDevice())
        await engine.start()
        bursts = Bursts(engine)
        rows = np.ones((1, 2), np.float32)
        calls = []
        for _ in range(4):
            asked = InferRequest(model="m", inputs={"x": rows}, rows=1, arrival=engine.clock())
            calls.append(bursts.add(asked))
            await rounds(3)
        outcomes = [await call.outcome for call in calls]
        assert [outcome.batch_size for outcome in outcomes if isinstance(outcome, InferResult)] == [4] * 4
        await engine.close()

    run(scenario())
