"""Layer by layer with real processes under load: a runtime that is killed, a model that goes and one that comes stop
nobody else, and readiness stays true."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from batchwright_worker.api.names import KIND_CPU
from batchwright_worker.layerwise.profiling.profiles import ENV_CACHE
from tests.reliability.fates import manifest
from tests.reliability.pod import Pod, pod

pytestmark = pytest.mark.slow
WIDTH = 1024


def wide_net(path: Path, layers: int) -> Path:
    """`layers` MatMuls of 4 MiB; written once."""
    if path.is_file():
        return path
    random = np.random.default_rng(layers)
    names = [f"h{number}" for number in range(layers)]
    nodes, weights = [], []
    for number, name in enumerate(names):
        weight = (random.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [names[number - 1] if number else "x", f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Relu", [f"m{number}"], [name if number < layers - 1 else "y"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in "xy")
    graph = helper.make_graph(nodes, "m", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def model(name: str, path: Path) -> dict[str, Any]:
    return {
        "name": name,
        "artifacts": [{"accelerator": KIND_CPU, "format": "onnx", "uri": path.as_uri()}],
        "batching": {"maxSize": 4},
    }


@dataclass
class Load:
    """Callers of every model, one request after the other; `answers` are (end, seconds) of each that was right."""

    url: str
    answers: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)
    unready: int = 0
    expected: dict[str, list[float]] = field(default_factory=dict)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, session: aiohttp.ClientSession, name: str) -> None:
        row = [1.0] * WIDTH
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": row}]}
        begin = time.monotonic()
        self.moved.set()
        async with session.post(f"{self.url}/v2/models/{name}/infer", json=body) as answer:
            if answer.status != 200:
                self.wrongs.append(f"{name}: {answer.status} {await answer.text()}"[:300])
                return
            data = (await answer.json())["outputs"][0]["data"]
        # Batches of one row and of two are summed in another order.
        if not np.allclose(data, self.expected.setdefault(name, data), rtol=1e-3, atol=1e-5):
            self.wrongs.append(f"{name}: another answer than before")
        now = time.monotonic()
        self.answers.setdefault(name, []).append((now, now - begin))

    async def ready(self, session: aiohttp.ClientSession) -> None:
        while True:
            async with session.get(f"{self.url}/v2/health/ready") as answer:
                self.unready += answer.status != 200
            await asyncio.sleep(0.05)

    def count(self, name: str) -> int:
        return len(self.answers.get(name, ()))

    async def more(self, name: str, count: int) -> None:
        wanted = self.count(name) + count
        async with asyncio.timeout(120):
            while self.count(name) < wanted and not self.wrongs:
                self.moved.clear()
                await self.moved.wait()

    def slowest(self, start: float, stop: float, *names: str) -> float:
        """Seconds of the slowest answer that came within [start, stop)."""
        return max(seconds for name in names for end, seconds in self.answers[name] if start <= end < stop)


@contextlib.asynccontextmanager
async def loaded(here: Pod, *names: str) -> AsyncIterator[tuple[Load, aiohttp.ClientSession]]:
    load = Load(f"http://127.0.0.1:{here.http}")
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:

        async def caller(name: str) -> None:
            while True:
                await load.ask(session, name)

        tasks = [group.create_task(caller(name)) for name in names for _ in range(2)]
        tasks.append(group.create_task(load.ready(session)))
        try:
            yield load, session
        finally:
            for task in tasks:
                task.cancel()


@contextlib.asynccontextmanager
async def three(tmp_path: Path, layers: int) -> AsyncIterator[tuple[Pod, float]]:
    """Models a, b, c of so many layers, in memory for less than one of them; the seconds that the pod took to start."""
    models = [model(name, wide_net(tmp_path / f"{name}.onnx", layers + number)) for number, name in enumerate("abc")]
    layerwise = {"mode": "Balanced", "memoryBudgetBytes": 3 * layers << 20}
    documents = manifest("live", models, layerwise=layerwise, repositoryControl=True)
    async with pod(documents, KIND_CPU, **{ENV_CACHE: str(tmp_path / "cache")}) as here:
        begin = time.monotonic()
        await here.start_runtime()
        await here.start_sidecar()
        await here.ready()
        yield here, time.monotonic() - begin


async def test_loads_unloads_and_a_kill_fail_nobody_and_readiness_stays(tmp_path: Path) -> None:
    async with three(tmp_path, layers=6) as (here, _), loaded(here, "a", "b") as (load, session):
        await load.more("a", 20)
        await load.more("b", 20)
        for change in ("unload", "load"):
            async with session.post(f"{load.url}/v2/repository/models/c/{change}") as answer:
                assert answer.status == 200, await answer.text()
            await load.more("a", 3)
        await load.ask(session, "c")
        killed = here.runtime
        os.kill(killed, signal.SIGKILL)
        for name in ("a", "b"):
            await load.more(name, 10)
        await load.ask(session, "c")
        assert here.runtime != killed
    assert load.wrongs == []
    assert load.unready == 0


async def answered_after_a_kill(tmp_path: Path) -> tuple[float, float]:
    """The slowest answer behind a kill, in seconds, and what it may take on this machine at this moment: as long as the
    pod took to start from what is prepared, and an answer twice as long as before."""
    async with three(tmp_path, layers=24) as (here, started_s), loaded(here, "a", "b", "c") as (load, _session):
        begin = time.monotonic()
        for name in "abc":
            await load.more(name, 10)
        killed_at = time.monotonic()
        before = load.slowest(begin, killed_at, "a", "b", "c")
        os.kill(here.runtime, signal.SIGKILL)
        for name in "abc":
            await load.more(name, 5)
        after = load.slowest(killed_at, float("inf"), "a", "b", "c")
    assert load.wrongs == []
    assert load.unready == 0
    return after, started_s + 2 * before


@pytest.mark.soak
@pytest.mark.timed
async def test_the_first_answer_comes_soon_after_a_kill(tmp_path: Path) -> None:
    """Three models of 100 MB and more. What others do on the machine falsifies one kill, not each of three."""
    async with three(tmp_path, layers=24):
        pass  # prepared and measured
    for _ in range(3):
        took, control = await answered_after_a_kill(tmp_path)
        if took < control:
            break
    assert took < control
