"""Memory that is short although the books say otherwise: idle models make room (B5's options 2 and 4, on a failure)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from batchwright_worker.inference.errors import ModelFailed, ModelUnavailable
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import DeclaredSource, LoadReport, NoSharedMemory, OutOfMemory, RunResult
from tests.engine.devices import FakeDevice, engine_of, model, request
from tests.engine.virtual import run

NAMES = ["a", "b", "c", "d"]


@dataclass
class Tight(FakeDevice):
    """Says that nothing bounds it, and has `real_bytes`."""

    real_bytes: int = 1000
    row_bytes: int = 0

    async def load(self, model: str, source: DeclaredSource, limit_s: float) -> LoadReport:
        if sum(self.resident.values()) + self.load_bytes > self.real_bytes:
            raise OutOfMemory("no room for the weights")
        return await super().load(model, source, limit_s)

    async def run(self, model: str, parts: Sequence[Mapping[str, Array]], rows: int, limit_s: float) -> RunResult:
        result = await super().run(model, parts, rows, limit_s)
        if sum(self.resident.values()) + rows * self.row_bytes > self.real_bytes:
            raise OutOfMemory("no room for the batch")
        return result


def test_idle_models_go_one_by_one_until_a_row_fits() -> None:
    async def scenario() -> None:
        device = Tight()
        engine = engine_of([model(name) for name in NAMES], device)
        await engine.start()
        assert len(device.resident) == 4
        device.row_bytes = 750
        result = await engine.infer(request(engine, 3.0, model_name="a"))
        assert result.outputs["y"][0, 0] == 30
        assert len(device.unloads) == 2
        assert "a" in device.resident
        # What went is loaded again when it is asked for, and others make room for it.
        for name in NAMES:
            await engine.infer(request(engine, 1.0, model_name=name))
        assert device.violations == []
        await engine.close()

    run(scenario())


def test_a_row_that_fits_in_no_empty_device_is_its_callers_error() -> None:
    async def scenario() -> None:
        device = Tight()
        engine = engine_of([model(name) for name in NAMES], device)
        await engine.start()
        device.row_bytes = 5000
        with pytest.raises(ModelFailed, match="out of device memory"):
            await engine.infer(request(engine, 3.0, model_name="a"))
        assert set(device.resident) == {"a"}
        await engine.close()

    run(scenario())


def test_a_load_that_does_not_fit_takes_the_room_of_idle_models() -> None:
    async def scenario() -> None:
        device = Tight(real_bytes=250)
        engine = engine_of([model(name) for name in NAMES], device)
        await engine.start()
        for name in [*NAMES, *NAMES]:
            assert (await engine.infer(request(engine, 2.0, model_name=name))).outputs["y"][0, 0] == 20
        assert device.violations == []
        await engine.close()

    run(scenario())


def test_no_model_goes_where_it_is_the_way_that_is_too_narrow() -> None:
    @dataclass
    class Narrow(FakeDevice):
        async def run(self, model: str, parts: Sequence[Mapping[str, Array]], rows: int, limit_s: float) -> RunResult:
            if self.narrow:
                raise NoSharedMemory("no slot")
            return await super().run(model, parts, rows, limit_s)

        narrow: bool = False

    async def scenario() -> None:
        device = Narrow()
        engine = engine_of([model(name) for name in NAMES], device)
        await engine.start()
        device.narrow = True
        with pytest.raises(ModelFailed):
            await engine.infer(request(engine, 3.0, model_name="a"))
        assert device.unloads == []
        await engine.close()

    run(scenario())


def test_books_follow_a_runtime_that_is_lost_during_a_load() -> None:
    async def scenario() -> None:
        device = FakeDevice(total_bytes=1000)
        engine = engine_of([model(name) for name in NAMES], device)
        await engine.start()
        await engine.unload("a")
        loading = asyncio.ensure_future(engine.load("a"))
        await asyncio.sleep(device.load_s / 2)
        memory = engine.scheduler.devices[device.device].memory
        assert (memory.loading_bytes, memory.used_bytes) == (100, 400)
        device.die()
        assert (memory.loading_bytes, memory.used_bytes, memory.free_bytes) == (0, 0, 1000)
        await loading
        await engine.close()

    run(scenario())


def test_who_waits_for_a_model_that_is_unloaded_is_counted_as_such() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model("a")], device)
        await engine.start()
        calls = [asyncio.ensure_future(engine.infer(request(engine, 1.0, model_name="a"))) for _ in range(40)]
        await asyncio.sleep(0.001)
        await engine.unload("a")
        await asyncio.gather(*calls, return_exceptions=True)
        refused = engine.counters["a"].refused
        assert refused["Unloaded"] > 0
        assert refused["Unavailable"] == 0
        device.load_errors.append(OutOfMemory("never"))
        with pytest.raises(ModelUnavailable) as error:
            await engine.load("a")
        assert error.value.retry_after_s == pytest.approx(engine.scheduler.models["a"].blocked_until - engine.clock())
        await engine.close()

    run(scenario())
