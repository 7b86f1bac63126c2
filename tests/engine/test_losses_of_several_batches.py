"""A runtime that works on batches of several models at once (layerwise) is lost: who killed it is found among all of
them, nobody else is blamed, and models answer as they come back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from batchwright_worker.inference.errors import ModelFailed
from batchwright_worker.inference.requests import Array, InferResult
from batchwright_worker.inference.runtime import DeclaredSource, LoadReport, RunResult
from tests.engine.devices import POISON, FakeDevice, engine_of, model, request
from tests.engine.virtual import run

MODELS = ("a", "b", "c")


class Logged(FakeDevice):
    """`log`: what ended, in order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(interleaves=True, overlaps_loads=True, depth=2 * len(MODELS), **options)
        self.log: list[tuple[str, str]] = []
        self.in_flight: list[tuple[str, ...]] = []
        """Per run, what ran when it began, itself last."""
        self.untried: list[tuple[str, str]] = []
        self._models: list[str] = []

    async def load(self, model: str, source: DeclaredSource, limit_s: float = float("inf")) -> LoadReport:
        self.untried.append((model, source.untried))
        report = await super().load(model, source, limit_s)
        self.log.append(("loaded", model))
        return report

    async def run(
        self, model: str, parts: Sequence[Mapping[str, Array]], rows: int, limit_s: float = float("inf")
    ) -> RunResult:
        self._models.append(model)
        self.in_flight.append(tuple(self._models))
        try:
            result = await super().run(model, parts, rows, limit_s)
        finally:
            self._models.remove(model)
        self.log.append(("ran", model))
        return result


def test_of_batches_that_a_runtime_was_lost_under_at_once_only_the_killer_fails() -> None:
    """Each of them is one request. `a`'s kills; those of `b` and `c` are in flight with it whenever that is allowed."""

    async def scenario() -> None:
        device = Logged()
        engine = engine_of([model(name) for name in MODELS], device, interleaves=True)
        await engine.start()
        values = {"a": POISON, "b": 1.0, "c": 2.0}
        answers = await asyncio.gather(
            *(engine.infer(request(engine, value, model_name=name)) for name, value in values.items()),
            return_exceptions=True,
        )
        poisoned, *innocent = answers
        assert isinstance(poisoned, ModelFailed)
        assert "quarantined" in str(poisoned)
        for value, answer in zip((1.0, 2.0), innocent, strict=True):
            assert isinstance(answer, InferResult), answer
            assert answer.outputs["y"][0, 0] == value * 10
        assert max(map(len, device.in_flight)) == len(MODELS)
        await engine.close()

    run(scenario())


@pytest.mark.parametrize("rows", [1, 4])
def test_after_a_loss_what_is_loaded_answers_before_the_others_are_loaded(rows: int) -> None:
    async def scenario() -> None:
        device = Logged()
        engine = engine_of([model(name, initial_size=4) for name in MODELS], device, interleaves=True)
        await engine.start()
        callers = [
            asyncio.ensure_future(engine.infer(request(engine, 1.0, model_name=name)))
            for name in ("b", "c")
            for _ in range(rows)
        ]
        await asyncio.sleep(device.fixed_s / 2)
        device.log.clear()
        device.die()
        await asyncio.gather(*callers)
        ran = {name: device.log.index(("ran", name)) for name in ("b", "c")}
        loaded = {name: device.log.index(("loaded", name)) for name in ("b", "c")}
        # Those with callers come first, and the first of them answers before the second is there.
        assert ("loaded", "a") not in device.log[: max(loaded.values())]
        first, second = sorted(("b", "c"), key=lambda name: loaded[name])
        assert loaded[first] < ran[first] < loaded[second] < ran[second]
        await engine.close()

    run(scenario())


def test_a_load_that_waits_for_another_one_holds_up_no_batch() -> None:
    async def scenario() -> None:
        device = Logged()
        engine = engine_of([model(name) for name in MODELS], device, interleaves=True)
        await engine.start()
        for name in ("b", "c"):
            await engine.unload(name)
        device.load_seconds = {"b": 10.0, "c": 10.0}
        loads = [asyncio.ensure_future(engine.load(name)) for name in ("b", "c")]
        await asyncio.sleep(1.0)
        asked = engine.clock()
        await engine.infer(request(engine, 1.0, model_name="a"))
        assert engine.clock() - asked < 1.0
        assert not any(load.done() for load in loads)
        await asyncio.gather(*loads)
        await engine.close()

    run(scenario())


def test_a_model_is_tried_again_whose_load_was_lost_beside_a_batch_of_another() -> None:
    """The second loss in a row is taken for its own."""

    async def scenario() -> None:
        device = Logged(load_seconds={"b": 1.0})
        engine = engine_of([model(name) for name in ("a", "b")], device, interleaves=True)
        starting = asyncio.ensure_future(engine.start())
        await asyncio.sleep(0.5)
        asked = asyncio.ensure_future(engine.infer(request(engine, 1.0, model_name="a")))
        await asyncio.sleep(device.fixed_s / 2)
        device.die()
        await asked
        await asyncio.sleep(0.5)
        device.die()
        await starting
        assert [why != "" for name, why in device.untried if name == "b"] == [False, False, True]
        await engine.close()

    run(scenario())
