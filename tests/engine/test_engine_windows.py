"""Windows, revisions and the state that the operator reads."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import InferenceError
from tests.engine.devices import FakeDevice, engine_of, model, request
from tests.engine.virtual import run


async def offer(engine: Engine, rate: float, seconds: float, seed: int = 1) -> list[asyncio.Task[None]]:
    """Open-loop Poisson traffic; errors are answers too."""
    generator, calls = random.Random(seed), []

    async def call() -> None:
        with contextlib.suppress(InferenceError):
            await engine.infer(request(engine, 1.0))

    end = engine.clock() + seconds
    while engine.clock() < end:
        calls.append(asyncio.ensure_future(call()))
        await asyncio.sleep(generator.expovariate(rate))
    return calls


def test_the_size_follows_a_stepped_load_and_every_change_has_its_reason() -> None:
    async def scenario() -> None:
        engine = engine_of([model(latency=100, initial_size=1, controller="MannKendall")], FakeDevice())
        await engine.start()
        await offer(engine, 40, 5)
        low = engine.snapshot().models[0]
        assert low.batch_size <= 2
        assert low.latency_target_met is True
        assert low.searching is False
        await offer(engine, 200, 15)
        high = engine.snapshot().models[0]
        assert high.batch_size >= 5
        assert high.latency_target_met is True
        reasons = {change.reason for change in high.changes}
        assert reasons <= {"RowsWaiting", "LatencyBelowTarget"}
        assert all(change.to_size == change.from_size + 1 and change.message for change in high.changes)
        assert len(high.changes) <= 8
        times = [change.time for change in high.changes]
        assert times == sorted(times)
        assert times[0] > 1_000_000
        await engine.close()

    run(scenario())


def test_a_change_of_size_is_a_new_revision_at_once() -> None:
    async def scenario() -> None:
        engine = engine_of([model(latency=100, initial_size=1, controller="MannKendall")], FakeDevice())
        await engine.start()
        before = engine.snapshot()
        traffic = asyncio.ensure_future(offer(engine, 200, 3))
        state = before
        while state.models[0].batch_size == before.models[0].batch_size:
            began = engine.clock()
            state = await engine.wait_for_revision(state.revision, 30)
        assert engine.clock() - began <= 1.0
        assert engine.clock() <= 2.1
        await traffic
        await engine.close()

    run(scenario())


def test_windows_rest_when_there_is_no_traffic() -> None:
    async def scenario() -> None:
        engine = engine_of([model(latency=100)], FakeDevice())
        await engine.start()
        await offer(engine, 50, 2)
        await asyncio.sleep(3)
        quiet = engine.snapshot()
        assert quiet.models[0].throughput == 0
        state = await engine.wait_for_revision(quiet.revision, 3600)
        assert state.revision == quiet.revision
        assert not engine.windows.timers
        await engine.close()

    run(scenario())


def test_steady_traffic_makes_few_revisions() -> None:
    async def scenario() -> None:
        engine = engine_of([model(latency=100)], FakeDevice())
        await engine.start()

        async def steady(seconds: float) -> None:
            end = engine.clock() + seconds
            while engine.clock() < end:
                await engine.infer(request(engine, 1.0))
                await asyncio.sleep(0.01)

        await steady(3)
        before = engine.snapshot().revision
        await steady(20)
        assert engine.snapshot().revision - before <= 4
        await engine.close()

    run(scenario())


def test_the_state_tells_rates_latencies_and_devices() -> None:
    async def scenario() -> None:
        engine = engine_of([model(latency=100)], FakeDevice(total_bytes=1000))
        await engine.start()
        engine.snapshot()
        calls = await offer(engine, 100, 5)
        state = engine.snapshot()
        shown = state.models[0]
        assert shown.throughput == pytest.approx(100, rel=0.3)
        assert sum(shown.latency_counts) == pytest.approx(100, rel=0.3)
        assert state.devices[0].memory_used_bytes == 100
        assert state.devices[0].memory_bytes == 1000
        assert 0.5 < state.devices[0].busy_ratio <= 1
        await asyncio.gather(*calls)
        await engine.close()
        counted = engine.counters["m"]
        assert counted.success.count == counted.rows == len(calls)
        assert counted.fail.count == 0
        assert sum(counted.latency_counts) == len(calls)
        assert sum(tally.compute.count for tally in counted.batches.values()) == counted.executions.count
        assert counted.predicted_ns == pytest.approx(counted.executions.ns, rel=0.1)

    run(scenario())


def test_a_queue_delay_lets_batches_fill() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(initial_size=4, max_queue_delay_milliseconds=30)], device)
        await engine.start()
        device.runs.clear()
        began = engine.clock()
        first = asyncio.ensure_future(engine.infer(request(engine, 1.0)))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(engine.infer(request(engine, 2.0)))
        await asyncio.gather(first, second)
        assert device.runs == [("m", 2)]
        assert engine.clock() - began == pytest.approx(0.030 + 0.014)
        await engine.close()

    run(scenario())
