"""More models than memory, loads and unloads under traffic: no request meets a model that is not there, and memory
comes back."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from batchwright_worker.api.names import ENV_EMULATED_DEVICE, KIND_EMULATED
from tests.protocol.raw_http import infer_request
from tests.protocol.serving import emulated_model
from tests.reliability.callers import Caller, traffic
from tests.reliability.fates import fated_model, manifest, row_of
from tests.reliability.pod import Pod, pod
from tests.reliability.usage import usage

pytestmark = pytest.mark.slow
MODELS, ROOM, WEIGHTS = 50, 10, 100
BALLAST = 64 << 20


def crowded(number: int) -> dict[str, Any]:
    """One of fifty models of an emulated device with memory for ten."""
    model = emulated_model(f"m{number}", fixed_ms=1, per_row_ms=0.1)
    artifact = model["artifacts"][0]
    artifact["accelerator"] = KIND_EMULATED
    artifact["emulated"] |= {"weightsBytes": WEIGHTS, "loadMilliseconds": 4, "loadOverlaps": number % 2 == 0}
    return model


@pytest.fixture
async def crowd() -> AsyncIterator[Pod]:
    documents = manifest("crowd", [crowded(number) for number in range(MODELS)], repositoryControl=True)
    device = {ENV_EMULATED_DEVICE: f'{{"memoryBytes": {WEIGHTS * ROOM}}}'}
    async with pod(documents, KIND_EMULATED, **device) as here:
        await here.start_runtime()
        await here.start_sidecar()
        await here.ready()
        yield here


async def ask(caller: Caller, model: str, winner: int) -> str:
    """`right`, or what the answer was instead."""
    await caller.send(infer_request(model, [[float(place == winner) for place in range(8)]]))
    answer = await caller.answer()
    if answer.status == 200 and answer.body["outputs"][0]["data"] == [winner]:
        return "right"
    return f"{answer.status} {answer.body}"


async def control(here: Pod, action: str, model: str) -> int:
    """Triton's repository call; its status."""
    async with Caller(here.http) as caller:
        path = f"/v2/repository/models/{model}/{action}"
        await caller.send(f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        return (await caller.answer()).status


async def test_fifty_models_in_memory_for_ten(crowd: Pod) -> None:
    """4,000 requests, Zipf(1.1), closed loops: all right, and never more in memory than there is."""
    rng, outcomes = random.Random(5), Counter[str]()
    weights = [1 / rank**1.1 for rank in range(1, MODELS + 1)]
    chosen = iter(rng.choices(range(MODELS), weights, k=4_000))

    async def loop() -> None:
        async with Caller(crowd.http) as caller:
            for number in chosen:
                outcomes[await ask(caller, f"m{number}", number % 8)] += 1

    await asyncio.gather(*(loop() for _ in range(40)))
    state = await crowd.ready()
    assert outcomes == {"right": 4_000}
    assert state["devices"][0]["memoryUsedBytes"] <= WEIGHTS * ROOM
    for number in range(MODELS):
        assert await control(crowd, "unload", f"m{number}") == 200
    state = await crowd.state_when(lambda state: state["devices"][0]["memoryUsedBytes"] == 0)
    assert {each["state"] for each in state["models"]} == {"Unloaded"}


async def test_loads_and_unloads_under_traffic(crowd: Pod) -> None:
    """A request is answered right, or told that the model was unloaded; nothing else."""
    rng, outcomes, stop = random.Random(6), Counter[str](), asyncio.Event()

    async def loop() -> None:
        async with Caller(crowd.http) as caller:
            while not stop.is_set():
                outcome = await ask(caller, f"m{rng.randrange(12)}", 3)
                outcomes["unloaded" if "404" in outcome and "unloaded by request" in outcome else outcome] += 1

    loops = [asyncio.create_task(loop()) for _ in range(16)]
    for _ in range(100):
        model = f"m{rng.randrange(12)}"
        assert await control(crowd, "unload", model) == 200
        await asyncio.sleep(0.005)
        assert await control(crowd, "load", model) == 200
    stop.set()
    await asyncio.gather(*loops)
    assert set(outcomes) == {"right", "unloaded"}
    assert outcomes["right"] > 500


async def test_an_unloaded_model_gives_its_memory_back(tmp_path: Path) -> None:
    """64 MiB, again and again, beside a model that serves on."""
    models = [fated_model(tmp_path, "m"), fated_model(tmp_path, "large", ballast_bytes=BALLAST)]
    async with pod(manifest("back", models, repositoryControl=True)) as here:
        await here.start_runtime()
        await here.start_sidecar()
        await here.ready()
        async with traffic(here.http, callers=4) as load:
            for _ in range(3):
                held = usage(here.runtime).private_bytes
                assert await control(here, "unload", "large") == 200
                assert held - usage(here.runtime).private_bytes > 0.9 * BALLAST
                await load.more(20)
                assert await control(here, "load", "large") == 200
                assert usage(here.runtime).private_bytes - held < 0.1 * BALLAST
        assert (load.wrongs, load.lost) == ({}, set())
        async with Caller(here.http) as caller:
            assert (await caller.ask([row_of(1)], "large")).is_right([row_of(1)])
