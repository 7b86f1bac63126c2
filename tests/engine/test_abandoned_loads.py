"""A load or unload that its caller gives up goes on: it belongs to the engine, at whatever await the caller left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import InferenceError, ModelUnavailable, Stopping
from batchwright_worker.inference.runtime import BatchFailed
from tests.engine.devices import FakeDevice, engine_of, model, request
from tests.engine.virtual import run

NAMES = ("a", "b", "c")
MOMENTS = [0.0, 0.005, 0.02, 0.021, 0.032, 0.04]
TURNS = range(6)
"""Turns of the event loop after the moment: between them lie all awaits of a load."""


async def answers(engine: Engine, name: str) -> float:
    result = await engine.infer(request(engine, 7.0, model_name=name))
    return float(result.outputs["y"][0, 0])


def quiet(engine: Engine, device: FakeDevice) -> bool:
    state = engine.scheduler.devices[device.device]
    return (state.timeline.in_flight, state.timeline.loading) == ([], "") and set(state.memory.residents) == set(
        device.resident
    )


async def abandon(call: Awaitable[None], moment: float, turns: int) -> None:
    """Begin it, and leave after so much time and so many turns of the event loop."""
    task = asyncio.ensure_future(call)
    await asyncio.sleep(moment)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, InferenceError):
        await task


async def started(device: FakeDevice) -> Engine:
    engine = engine_of([model(name) for name in NAMES], device)
    await engine.start()
    return engine


Act = Callable[[Engine], Awaitable[None]]


async def unloaded(engine: Engine) -> None:
    await engine.unload("a")


async def nothing(engine: Engine) -> None:
    pass


@pytest.mark.parametrize("room", [0, 200], ids=["room for all", "room for two"])
@pytest.mark.parametrize(
    ("before", "act"),
    [(unloaded, lambda engine: engine.load("a")), (nothing, lambda engine: engine.unload("a"))],
    ids=["load", "unload"],
)
def test_whoever_leaves_the_engine_serves_on(before: Act, act: Act, room: int) -> None:
    async def scenario(moment: float, turns: int) -> None:
        device = FakeDevice(total_bytes=room)
        engine = await started(device)
        await before(engine)
        traffic = asyncio.gather(*(answers(engine, "b") for _ in range(3)))
        await abandon(act(engine), moment, turns)
        async with asyncio.timeout(5):
            assert await traffic == [70.0] * 3
            await engine.unload("b")
            await engine.load("b")
            await engine.load("a")
            assert [await answers(engine, name) for name in NAMES] == [70.0] * 3
        assert engine.ready()
        assert device.violations == []
        assert quiet(engine, device)
        await engine.close()

    for moment in MOMENTS:
        for turns in TURNS:
            run(scenario(moment, turns))


def test_an_abandoned_load_is_done_all_the_same() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = await started(device)
        await engine.unload("a")
        await abandon(engine.load("a"), 0.005, 0)
        assert not engine.model_ready("a")
        await asyncio.sleep(1)
        assert engine.model_ready("a")
        assert "a" in device.resident
        await engine.close()

    run(scenario())


def test_an_abandoned_load_that_fails_says_so_to_the_next() -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = await started(device)
        await engine.unload("a")
        device.load_errors.append(BatchFailed("the disk hiccups"))
        await abandon(engine.load("a"), 0.005, 0)
        await asyncio.sleep(0.1)
        with pytest.raises(ModelUnavailable, match="the disk hiccups"):
            await answers(engine, "a")
        await engine.close()

    run(scenario())


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_model_that_is_unloaded_while_it_loads_is_not_there(moment: float) -> None:
    async def scenario() -> None:
        device = FakeDevice()
        engine = await started(device)
        await engine.unload("a")
        loading = asyncio.ensure_future(engine.load("a"))
        await asyncio.sleep(moment)
        await engine.unload("a")
        await asyncio.gather(loading, return_exceptions=True)
        assert not engine.model_ready("a")
        assert "a" not in device.resident
        assert quiet(engine, device)
        await engine.close()

    run(scenario())


def test_who_waits_for_a_load_when_the_engine_stops_is_told() -> None:
    async def scenario() -> None:
        engine = await started(FakeDevice())
        await engine.unload("a")
        loading = asyncio.ensure_future(engine.load("a"))
        await asyncio.sleep(0.005)
        await engine.close()
        with pytest.raises(Stopping):
            await loading

    run(scenario())
