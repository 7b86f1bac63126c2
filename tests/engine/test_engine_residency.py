"""Models in and out of memory: on demand, by request, after failures and losses."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import BadInput, ModelUnavailable, UnknownModel
from batchwright_worker.inference.requests import InferRequest
from batchwright_worker.inference.runtime import BatchFailed
from tests.engine.devices import FakeDevice, engine_of, model, request
from tests.engine.virtual import run

NAMES = [f"m{i}" for i in range(8)]


async def ask(engine: Engine, name: str, value: float = 1.0) -> float:
    result = await engine.infer(request(engine, value, model_name=name))
    return float(result.outputs["y"][0, 0])


def test_every_model_is_loaded_once_at_start_and_measured() -> None:
    async def scenario() -> None:
        device = FakeDevice(total_bytes=300)
        engine = engine_of([model(name) for name in NAMES], device)
        await engine.start()
        assert sorted(device.loads) == NAMES
        assert len(device.resident) == 3
        assert engine.ready()
        assert all(engine.model_ready(name) for name in NAMES)
        assert engine.scheduler.models["m0"].footprint.load_bytes == 100
        await engine.close()

    run(scenario())


def test_no_request_meets_an_unloaded_model() -> None:
    async def scenario() -> None:
        device = FakeDevice(total_bytes=330, bytes_per_row=1)
        engine = engine_of([model(name, initial_size=8) for name in NAMES], device)
        await engine.start()
        calls = [ask(engine, NAMES[i * i % 8], float(i)) for i in range(120)]
        assert await asyncio.gather(*calls) == [10.0 * i for i in range(120)]
        assert device.violations == []
        assert sum(device.resident.values()) <= 330
        await engine.close()

    run(scenario())


def test_what_is_loaded_for_waiting_rows_serves_them_before_it_goes() -> None:
    async def scenario() -> None:
        device = FakeDevice(total_bytes=100)
        engine = engine_of([model(name, initial_size=4) for name in NAMES[:4]], device)
        await engine.start()
        device.loads.clear()
        calls = [ask(engine, NAMES[i % 4], float(i)) for i in range(32)]
        assert await asyncio.gather(*calls) == [10.0 * i for i in range(32)]
        assert len(device.loads) <= 8
        await engine.close()

    run(scenario())


def test_two_devices_share_the_work_and_the_models() -> None:
    async def scenario() -> None:
        devices = [FakeDevice(device=f"runtime-{i}") for i in range(2)]
        engine = engine_of([model("a", initial_size=4, max_size=4)], *devices)
        await engine.start()
        began = engine.clock()
        await asyncio.gather(*[ask(engine, "a", float(i)) for i in range(80)])
        assert engine.clock() - began == pytest.approx(10 * 0.018)
        assert [len(device.loads) for device in devices] == [1, 1]
        await engine.close()

    run(scenario())


def test_a_model_that_cannot_be_loaded_is_failed_with_its_reason_and_tried_again() -> None:
    async def scenario() -> None:
        device = FakeDevice(load_errors=[BatchFailed("weights are corrupt"), BatchFailed("weights are corrupt")])
        engine = engine_of([model()], device)
        await engine.start()
        state = engine.snapshot()
        assert (state.ready, state.models[0].state) == (False, "Failed")
        assert "weights are corrupt" in state.message
        with pytest.raises(ModelUnavailable, match="weights are corrupt") as refusal:
            await ask(engine, "m")
        assert refusal.value.retry_after_s == pytest.approx(1)
        await asyncio.sleep(4)
        assert engine.ready()
        assert await ask(engine, "m", 3) == 30
        await engine.close()

    run(scenario())


def test_a_model_larger_than_the_device_says_so() -> None:
    async def scenario() -> None:
        engine = engine_of([model()], FakeDevice(total_bytes=50))
        await engine.start()
        assert "out of memory while loading" in engine.snapshot().message
        await engine.close()

    run(scenario())


def test_unload_by_request_waits_for_the_batch_and_frees_memory() -> None:
    async def scenario() -> None:
        device = FakeDevice(total_bytes=500)
        engine = engine_of([model("a", initial_size=1, max_size=1), model("b")], device)
        await engine.start()
        running, waiting = (asyncio.ensure_future(ask(engine, "a", float(i))) for i in range(2))
        await asyncio.sleep(0.001)
        await engine.unload("a")
        assert await running == 0
        with pytest.raises(UnknownModel, match="unloaded by request"):
            await waiting
        assert list(device.resident) == ["b"]
        with pytest.raises(UnknownModel, match="load it first"):
            await ask(engine, "a")
        assert engine.ready()
        assert not engine.model_ready("a")
        await engine.load("a")
        assert await ask(engine, "a", 2) == 20
        assert device.violations == []
        await engine.close()

    run(scenario())


def test_a_lost_device_is_restored_as_it_was() -> None:
    async def scenario() -> None:
        device = FakeDevice(total_bytes=500)
        engine = engine_of([model("a"), model("b")], device)
        await engine.start()
        revision = engine.snapshot().revision
        device.die()
        assert not engine.ready()
        await asyncio.sleep(0.2)
        assert sorted(device.resident) == ["a", "b"]
        assert engine.ready()
        assert engine.snapshot().revision > revision
        assert await ask(engine, "b", 4) == 40
        await engine.close()

    run(scenario())


def test_a_runtime_that_comes_up_late_is_waited_for() -> None:
    async def scenario() -> None:
        device = FakeDevice(up=False)
        engine = engine_of([model()], device)
        asyncio.get_running_loop().call_later(3, device._come_back)
        start = asyncio.ensure_future(engine.start())
        await asyncio.sleep(1)
        assert engine.snapshot().message == "no runtime is up"
        await start
        assert engine.ready()
        assert await ask(engine, "m", 5) == 50
        await engine.close()

    run(scenario())


def test_the_warm_up_predicts_the_first_size() -> None:
    async def scenario() -> None:
        engine = engine_of([model(latency=100)], FakeDevice())
        await engine.start()
        assert engine.snapshot().models[0].batch_size == 20
        assert engine.expected_wait_ms("m") == 0
        await engine.close()

    run(scenario())


def test_metadata_comes_from_the_loaded_model() -> None:
    async def scenario() -> None:
        engine = engine_of([model(max_size=48)], FakeDevice())
        await engine.start()
        metadata = engine.model_metadata("m")
        assert (metadata.inputs[0].name, metadata.inputs[0].shape, metadata.max_batch_size) == ("x", (2,), 48)
        assert (metadata.platform, metadata.versions) == ("python", ("1",))
        await engine.close()

    run(scenario())


def test_what_a_model_takes_is_not_told_or_judged_before_its_first_load() -> None:
    async def scenario() -> None:
        device = FakeDevice(load_s=1.0)
        engine = engine_of([model()], device)
        start = asyncio.ensure_future(engine.start())
        await asyncio.sleep(0.5)
        with pytest.raises(ModelUnavailable, match="is being loaded: what it takes is not known yet"):
            engine.model_metadata("m")
        scalar = InferRequest(model="m", inputs={"x": np.float32(3)}, rows=1, arrival=engine.clock())
        with pytest.raises(ModelUnavailable, match="not known yet"):
            await engine.infer(scalar)
        await start
        assert engine.model_metadata("m").inputs[0].name == "x"
        with pytest.raises(BadInput):
            await engine.infer(scalar)
        await engine.close()

    run(scenario())


def test_what_is_said_of_a_model_that_never_loaded_is_why() -> None:
    async def scenario() -> None:
        engine = engine_of([model()], FakeDevice(load_errors=[BatchFailed("no such file")] * 9))
        await engine.start()
        with pytest.raises(ModelUnavailable, match="no such file") as refused:
            engine.model_metadata("m")
        assert refused.value.retry_after_s
        await engine.close()

    run(scenario())
