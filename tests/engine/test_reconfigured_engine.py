"""New targets and bounds under traffic: nothing is refused or lost, and what is served by follows at once."""

from __future__ import annotations

import asyncio

from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.requests import InferResult
from tests.engine.devices import FakeDevice, engine_of, model, request
from tests.engine.virtual import run


async def answered(engine: Engine, count: int, every_s: float) -> list[InferResult | BaseException]:
    calls = []
    for _ in range(count):
        calls.append(asyncio.ensure_future(engine.infer(request(engine, 1.0))))
        await asyncio.sleep(every_s)
    return await asyncio.gather(*calls, return_exceptions=True)


def test_every_request_of_a_steady_load_is_answered_through_many_changes() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(latency=200), model("idle")], device)
        await engine.start()
        traffic = asyncio.ensure_future(answered(engine, 2000, 0.005))
        for change in range(19):
            await asyncio.sleep(0.5)
            values = {"latency": 150 + 10 * change, "max_size": 8 + change, "window_milliseconds": 200 + 50 * change}
            engine.reconfigure([model(**values), model("idle")])
        answers = await traffic
        assert [each for each in answers if not isinstance(each, InferResult)] == []
        assert device.loads == ["m", "idle"]
        assert engine.scheduler.models["m"].config.tuning.max_size == 26
        assert engine.model_metadata("m").max_batch_size == 26
        await engine.close()

    run(scenario())


def test_a_smaller_bound_is_kept_by_the_next_batch_and_shows_as_a_change() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(initial_size=16)], device)
        await engine.start()
        traffic = asyncio.ensure_future(answered(engine, 600, 0.002))
        await asyncio.sleep(0.6)
        assert max(rows for _, rows in device.runs[-5:]) > 4
        before = engine.snapshot()
        engine.reconfigure([model(initial_size=16, max_size=3)])
        await asyncio.sleep(0.05)
        device.runs.clear()
        await traffic
        assert max(rows for _, rows in device.runs) <= 3
        state = engine.snapshot()
        assert state.revision > before.revision
        change = next(each for each in state.models[0].changes if each.reason == "Reconfigured")
        assert change.to_size == 3
        await engine.close()

    run(scenario())


def test_an_open_window_has_the_new_length() -> None:
    async def scenario() -> None:
        engine = engine_of([model(window_milliseconds=600_000)], FakeDevice())
        await engine.start()
        traffic = asyncio.ensure_future(answered(engine, 400, 0.01))
        await asyncio.sleep(1.5)
        assert engine.snapshot().models[0].throughput == 0
        engine.reconfigure([model(window_milliseconds=1000)])
        await asyncio.sleep(0.01)
        assert engine.snapshot().models[0].throughput > 0, "it has lasted that long already"
        await traffic
        await engine.close()

    run(scenario())


def test_a_delay_that_ends_sets_free_what_waits_for_a_full_batch() -> None:
    async def scenario() -> None:
        engine = engine_of([model(max_queue_delay_milliseconds=60_000, initial_size=8)], FakeDevice())
        await engine.start()
        waiting = asyncio.ensure_future(engine.infer(request(engine, 1.0)))
        await asyncio.sleep(1)
        assert not waiting.done()
        engine.reconfigure([model(initial_size=8)])
        await waiting
        assert engine.clock() < 1.5
        await engine.close()

    run(scenario())


def test_what_changes_before_the_start_is_what_it_starts_with() -> None:
    async def scenario() -> None:
        engine = engine_of([model(max_size=32)], FakeDevice())
        engine.reconfigure([model(max_size=2)])
        await engine.start()
        assert engine.scheduler.models["m"].config.tuning.max_size == 2
        await engine.close()

    run(scenario())
