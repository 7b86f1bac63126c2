"""A run or a load that never returns: its runtime is replaced, its neighbours go on, its callers are answered."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest

from batchwright_worker.api.model import TimeLimits
from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import DeadlineExceeded, ModelFailed, ModelUnavailable
from tests.engine.devices import HANG, POISON, FakeDevice, engine_of, model, request
from tests.engine.virtual import run


def limited(name: str, run_ms: int | None = 1000, load_ms: int | None = None, **batching: Any) -> Any:
    import msgspec

    limits = TimeLimits(run_milliseconds=run_ms, load_milliseconds=load_ms)
    return msgspec.structs.replace(model(name, **batching), limits=limits)


async def started(device: FakeDevice, *models: Any) -> Engine:
    engine = engine_of(models, device)
    await engine.start()
    return engine


def test_the_hanging_request_is_quarantined_and_its_batch_mates_are_answered() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = await started(device, limited("m", max_size=8, initial_size=8), model("good"))
        calls = [engine.infer(request(engine, HANG if i == 5 else float(i))) for i in range(8)]
        neighbour = asyncio.ensure_future(engine.infer(request(engine, 3.0, model_name="good")))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for i, answer in enumerate(answers):
            if i == 5:
                assert isinstance(answer, ModelFailed)
                assert "quarantined" in str(answer)
            else:
                assert not isinstance(answer, BaseException)
                assert answer.outputs["y"][0, 0] == 10 * i
        assert (await neighbour).outputs["y"][0, 0] == 30
        # Halves of 8, then of 4, 2, and twice alone.
        assert engine.counters["m"].hung == 5
        assert device.violations == []
        await engine.close()

    run(scenario())


def test_the_neighbours_of_a_hanging_model_wait_for_its_limit_and_one_more_try_at_most() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = await started(device, limited("m", run_ms=500), model("good"))
        hanging = asyncio.ensure_future(engine.infer(request(engine, HANG)))
        await asyncio.sleep(0.01)
        began = engine.clock()
        result = await engine.infer(request(engine, 1.0, model_name="good"))
        assert np.array_equal(result.outputs["y"][:, 0], [10.0])
        assert engine.clock() - began < 2 * 0.5 + 0.2
        with pytest.raises(ModelFailed):
            await hanging
        assert set(device.resident) == {"m", "good"}
        await engine.close()

    run(scenario())


def test_it_is_unready_from_half_of_the_limit_on_and_ready_again_afterwards() -> None:
    async def scenario() -> None:
        engine = await started(FakeDevice(), limited("m", run_ms=900), model("good"))
        hanging = asyncio.ensure_future(engine.infer(request(engine, HANG)))
        await asyncio.sleep(0.4)
        assert engine.ready()
        await asyncio.sleep(0.1)
        assert not engine.ready()
        assert not engine.model_ready("m")
        assert engine.model_ready("good")
        state = next(one for one in engine.snapshot().models if one.name == "m")
        assert (state.state, state.message) == ("Failed", "half of the limit has passed")
        assert engine.counters["m"].overdue == 1
        with pytest.raises(ModelFailed):
            await hanging
        await asyncio.sleep(0.5)
        assert engine.ready()
        assert engine.model_ready("m")
        await engine.close()

    run(scenario())


def test_a_run_that_ends_late_but_within_its_limit_is_an_answer() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = await started(device, limited("m", run_ms=2000))
        device.fixed_s = 1.5
        answer = asyncio.ensure_future(engine.infer(request(engine, 4.0)))
        await asyncio.sleep(1.2)
        assert not engine.model_ready("m")
        assert (await answer).outputs["y"][0, 0] == 40
        assert engine.model_ready("m")
        assert engine.counters["m"].hung == 0
        await engine.close()

    run(scenario())


def test_a_caller_with_a_deadline_behind_a_hanging_batch_is_answered_at_its_time() -> None:
    async def scenario() -> None:
        engine = await started(FakeDevice(), limited("m", run_ms=5000), model("good"))
        hanging = asyncio.ensure_future(engine.infer(request(engine, HANG)))
        await asyncio.sleep(0.01)
        began = engine.clock()
        with pytest.raises(DeadlineExceeded):
            await engine.infer(request(engine, 1.0, model_name="good", deadline=began + 0.3))
        assert engine.clock() - began == pytest.approx(0.3, abs=0.002)
        with pytest.raises(ModelFailed):
            await hanging
        await engine.close()

    run(scenario())


def test_a_load_that_hangs_is_given_up_after_its_limit_and_the_others_are_served() -> None:
    async def scenario() -> None:
        device = FakeDevice(load_seconds={"stuck": math.inf})
        engine = await started(device, model("a"), limited("stuck", load_ms=3000), model("b"))
        for name in ("a", "b"):
            assert (await engine.infer(request(engine, 2.0, model_name=name))).outputs["y"][0, 0] == 20
        with pytest.raises(ModelUnavailable, match=r"limits\.loadMilliseconds") as refusal:
            await engine.infer(request(engine, 2.0, model_name="stuck"))
        assert refusal.value.retry_after_s is not None
        assert refusal.value.retry_after_s > 20
        state = next(one for one in engine.snapshot().models if one.name == "stuck")
        assert state.state == "Failed"
        assert device.violations == []
        await engine.close()

    run(scenario())


def test_a_model_that_hangs_again_and_again_rests_and_the_others_have_the_device() -> None:
    async def scenario() -> None:
        engine = await started(FakeDevice(), limited("m", run_ms=1000), model("good"))
        waits: list[float] = []
        refused = 0
        end = engine.clock() + 300

        async def hang() -> None:
            nonlocal refused
            while engine.clock() < end:
                try:
                    await engine.infer(request(engine, HANG))
                except ModelFailed:
                    pass
                except ModelUnavailable:
                    refused += 1
                    await asyncio.sleep(1.0)

        async def ask() -> None:
            while engine.clock() < end:
                began = engine.clock()
                await engine.infer(request(engine, 1.0, model_name="good"))
                waits.append(engine.clock() - began)
                await asyncio.sleep(0.1)

        hanging = asyncio.ensure_future(hang())
        await ask()
        hanging.cancel()
        waits.sort()
        assert waits[int(0.98 * len(waits))] < 0.05
        assert refused > 100
        assert engine.ready(), "a model that rests does not take the replica from the others"
        assert not engine.model_ready("m")
        await engine.close()

    run(scenario())


def test_the_only_model_never_rests() -> None:
    async def scenario() -> None:
        engine = await started(FakeDevice(), limited("m", run_ms=5000))
        for _ in range(3):
            with pytest.raises(ModelFailed):
                await engine.infer(request(engine, HANG))
        assert (await engine.infer(request(engine, 1.0))).outputs["y"][0, 0] == 10
        await engine.close()

    run(scenario())


def test_a_model_that_crashes_again_and_again_rests_too_and_its_neighbour_never_does() -> None:
    async def scenario() -> None:
        engine = await started(FakeDevice(depth=2), model("m"), model("good"))
        refused, end = 0, engine.clock() + 60

        async def crash() -> None:
            nonlocal refused
            while engine.clock() < end:
                try:
                    await engine.infer(request(engine, POISON))
                except ModelFailed:
                    pass
                except ModelUnavailable:
                    refused += 1
                    await asyncio.sleep(0.5)

        crashing = asyncio.ensure_future(crash())
        answered = 0
        while engine.clock() < end:
            await engine.infer(request(engine, 1.0, model_name="good"))
            answered += 1
            await asyncio.sleep(0.02)
        crashing.cancel()
        assert refused > 30
        assert answered > 1000
        await engine.close()

    run(scenario())
