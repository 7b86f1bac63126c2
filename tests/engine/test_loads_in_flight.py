"""Loads behind batches and batches behind loads, on a device that loads block and that takes two requests at a time."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import InferenceError, ModelFailed, ModelUnavailable
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import BatchFailed, DeclaredSource, LoadReport, RunResult
from tests.engine.devices import BAD, FakeDevice, engine_of, model, request
from tests.engine.virtual import run

NAMES = [f"m{i}" for i in range(8)]


@dataclass
class Lane(FakeDevice):
    """Does what is requested one after the other, in that order; raises on models that are not there."""

    depth: int = 2
    idle_s: float = 0.0
    left_behind: int = 0
    """Unloads that were asked for while a batch of that model was still to end."""
    _open: Counter[str] = field(default_factory=Counter)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _free_since: float | None = None

    async def load(self, model: str, source: DeclaredSource, limit_s: float = math.inf) -> LoadReport:
        async with self._lock:
            return await super().load(model, source, limit_s)

    async def unload(self, model: str, limit_s: float = math.inf) -> None:
        self.left_behind += self._open[model] > 0
        async with self._lock:
            await super().unload(model)

    async def run(
        self, model: str, parts: Sequence[Mapping[str, Array]], rows: int, limit_s: float = math.inf
    ) -> RunResult:
        self._open[model] += 1
        try:
            async with self._lock:
                if model not in self.resident:
                    raise BatchFailed(f"{model} is not loaded")
                return await super().run(model, parts, rows)
        finally:
            self._open[model] -= 1


async def ask(engine: Engine, name: str, value: float) -> float:
    result = await engine.infer(request(engine, value, model_name=name))
    return float(result.outputs["y"][0, 0])


async def started(device: Lane) -> Engine:
    engine = engine_of([model(name, initial_size=8) for name in NAMES], device)
    await engine.start()
    device.loads.clear()
    return engine


async def traffic(engine: Engine, count: int, bad: frozenset[int] = frozenset()) -> list[float | BaseException]:
    generator = random.Random(5)
    calls: list[asyncio.Future[float]] = []
    for number in range(count):
        name = NAMES[int(generator.paretovariate(1)) % len(NAMES)]
        calls.append(asyncio.ensure_future(ask(engine, name, BAD if number in bad else float(number))))
        await asyncio.sleep(generator.expovariate(150))
    return await asyncio.gather(*calls, return_exceptions=True)


def test_no_request_meets_an_unloaded_model() -> None:
    async def scenario() -> None:
        device = Lane(total_bytes=330)
        engine = await started(device)
        assert await traffic(engine, 400) == [10.0 * number for number in range(400)]
        assert device.violations == []
        assert len(device.loads) > 20
        assert sum(device.resident.values()) <= 330
        state = engine.scheduler.devices[device.device]
        timeline, memory = state.timeline, state.memory
        assert (timeline.in_flight, timeline.loading, set(memory.residents)) == ([], "", set(device.resident))
        await engine.close()

    run(scenario())


def test_the_model_whose_batch_ends_makes_room_and_its_bad_rows_are_found_all_the_same() -> None:
    async def scenario() -> None:
        device = Lane(total_bytes=330)
        engine = await started(device)
        bad = frozenset(range(7, 600, 40))
        answers = await traffic(engine, 600, bad)
        assert device.left_behind > 5
        assert all(isinstance(answers[number], ModelFailed) for number in bad)
        assert all(answer == 10.0 * number for number, answer in enumerate(answers) if number not in bad)
        assert sum(device.resident.values()) <= 330
        state = engine.scheduler.devices[device.device]
        timeline, memory = state.timeline, state.memory
        assert (timeline.in_flight, timeline.loading, set(memory.residents)) == ([], "", set(device.resident))
        await engine.close()

    run(scenario())


def test_the_device_goes_from_load_to_batch_without_waiting_for_the_sidecar() -> None:
    """Requests overlap: at the moment that a load ends, the batch of its rows has been handed over already."""

    async def scenario() -> None:
        device = Lane(total_bytes=330)
        waiting_at_load_end: list[bool] = []
        plain_load = Lane.load

        async def load(model: str, source: DeclaredSource, limit_s: float = math.inf) -> LoadReport:
            report = await plain_load(device, model, source, limit_s)
            waiting_at_load_end.append(bool(device._lock._waiters) or device._lock.locked())
            return report

        engine = await started(device)
        device.load = load  # type: ignore[method-assign]
        await traffic(engine, 300)
        assert sum(waiting_at_load_end) > 0.8 * len(waiting_at_load_end)
        await engine.close()

    run(scenario())


def test_a_load_that_fails_takes_no_row_along_that_was_put_behind_it() -> None:
    async def scenario() -> None:
        device = Lane(total_bytes=330)
        engine = await started(device)
        device.load_errors += [BatchFailed("the disk hiccups") for _ in range(3)]
        answers = await traffic(engine, 400)
        wrong = [(number, answer) for number, answer in enumerate(answers) if answer != 10.0 * number]
        assert 1 <= len(wrong) <= 60
        assert all(isinstance(answer, ModelUnavailable) for _, answer in wrong)
        assert all("the disk hiccups" in str(answer) for _, answer in wrong)
        assert not any(isinstance(answer, InferenceError) for answer in answers[-50:])
        await engine.close()

    run(scenario())
