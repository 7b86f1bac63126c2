"""Whatever a model does, a caller's answer beside others is the one that the model gives to that request alone,
or it is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchwright_worker.api import model as manifest_model
from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.inference.requests import Array, InferRequest
from batchwright_worker.inference.runtime import (
    BatchFailed,
    BatchPlan,
    DeclaredSource,
    LoadReport,
    MemoryReport,
    RunResult,
    WrongOutputs,
)
from batchwright_worker.runtime.calls import run_batch
from batchwright_worker.runtime.settling import settled
from tests.batching.functions import FunctionModel, source
from tests.batching.random_models import RandomModel, models
from tests.engine.virtual import run

Request = dict[str, Any]


class FunctionRuntime:
    """The engine's runtime over one function, as the client and the runtime process do it between them."""

    kind, device, overlaps_loads, depth = "cpu", "runtime-0", False, 1

    def __init__(self, model: FunctionModel) -> None:
        self.model = model
        self.plan: BatchPlan | None = None
        self.batches: list[int] = []

    def watch(self, *_: Any) -> None:
        pass

    async def load(self, model: str, declared: DeclaredSource, limit_s: float = 0) -> LoadReport:
        self.plan = settled(self.model, source(declared.mode))
        inputs, outputs = self.plan.inputs, self.plan.outputs
        return LoadReport(memory_bytes=0, bytes_per_row=0, seconds=0.01, inputs=inputs, outputs=outputs, plan=self.plan)

    async def unload(self, model: str, limit_s: float = 0) -> None:
        pass

    async def run(self, model: str, parts: Sequence[Mapping[str, Array]], rows: int, limit_s: float = 0) -> RunResult:
        assert self.plan is not None
        whole = self.plan.unbatched_inputs
        inputs = {
            name: parts[0][name] if name in whole else np.concatenate([part[name] for part in parts])
            for name in parts[0]
        }
        for part in parts:
            for name in whole:
                np.testing.assert_array_equal(part[name], inputs[name])
        self.batches.append(rows)
        await asyncio.sleep(0.01)
        try:
            outputs = run_batch(self.model, self.plan, inputs, rows)
        except WrongOutputs:
            raise
        except Exception as error:
            raise BatchFailed(str(error)) from error
        return RunResult(outputs=outputs, device_seconds=0.01)

    async def memory(self) -> MemoryReport:
        return MemoryReport(total_bytes=0, used_bytes=0, free_bytes=0)


def requests_of(model: FunctionModel, seeds: Sequence[tuple[int, int, int]]) -> list[Request]:
    """One request for each (rows, size of variable dimensions, choice of the setting)."""
    made = []
    for number, (rows, size, choice) in enumerate(seeds):
        random, setting = np.random.default_rng(number), np.random.default_rng(choice)
        request = {}
        for spec in model.inputs:
            shape = [size if each < 0 else each for each in spec.shape]
            if spec.name == "x":
                shape[0] = rows if spec.shape[0] < 0 else spec.shape[0]
            # Now and then large: some models look across their rows only then.
            scale = [1, 1, 1000][number % 3] if spec.name == "x" else 1
            request[spec.name] = ((random if spec.name == "x" else setting).normal(size=shape) * scale).astype(
                np.float32
            )
        made.append(request)
    return made


def alone(model: FunctionModel, request: Request) -> Mapping[str, Any] | None:
    """None where the model itself refuses it."""
    try:
        return model.run({name: array.copy() for name, array in request.items()}, 1)
    except Exception:
        return None


async def together(runtime: FunctionRuntime, requests: Sequence[Request]) -> list[Any]:
    model = manifest_model.Model(
        name="m",
        artifacts=(manifest_model.Artifact(accelerator="cpu", format="python"),),
        batching=manifest_model.Batching(initial_size=5, max_size=5),
    )
    loop = asyncio.get_running_loop()
    engine = Engine([model], [runtime], clock=loop.time, wall=loop.time)  # type: ignore[list-item]
    await engine.start()
    asked = [
        engine.infer(InferRequest(model="m", inputs=inputs, rows=7, arrival=engine.clock())) for inputs in requests
    ]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    await engine.close()
    return answers


def outcome(model: RandomModel, seeds: Sequence[tuple[int, int, int]]) -> Counter[str]:
    made = model.made()
    requests = requests_of(made, seeds)
    runtime, counts = FunctionRuntime(made), Counter[str]()
    for request, answer in zip(requests, run(together(runtime, requests)), strict=True):
        wanted = alone(made, request)
        if isinstance(answer, InferenceError):
            counts["refused" if wanted is not None else "refused, as by the model"] += 1
            continue
        assert not isinstance(answer, BaseException), answer
        if wanted is None:
            counts["answered by pieces"] += 1
            continue
        assert set(answer.outputs) == set(wanted)
        for name, array in wanted.items():
            assert answer.outputs[name].shape == array.shape, (model, runtime.plan)
            np.testing.assert_allclose(answer.outputs[name], array, rtol=2e-3, atol=1e-4, err_msg=f"{runtime.plan}")
        counts["right"] += 1
    assert runtime.plan is not None
    counts[runtime.plan.mode] += 1
    counts["shared"] += max(runtime.batches, default=0) > max(rows for rows, _, _ in seeds)
    return counts


callers = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([2, 2, 3]), st.integers(0, 1)), min_size=2, max_size=8)
CHANNELS = RandomModel(first=3, inner=(2, 2), steps=("centred over rows",), joined="", setting=(), second="")
STATES = RandomModel(first=-1, inner=(2,), steps=("neg",), joined="times its sum", setting=(2, -1, 2), second="")


@example(CHANNELS, [(3, 2, 0)] * 8)
@example(STATES, [(1, 2, 0), (1, 2, 1), (2, 2, 0), (2, 3, 1)])
@given(models, callers)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_answer_is_the_one_that_the_model_gives_alone(
    model: RandomModel, seeds: list[tuple[int, int, int]]
) -> None:
    outcome(model, seeds)


def test_most_models_of_rows_are_batched_and_hardly_anything_is_refused() -> None:
    """What the property is worth: the models that it meets are served, in both ways, and share batches."""
    counts = Counter[str]()
    for first in (-1, 1, 3):
        for steps in (("neg",), ("centred",), ("softmax",), ("running sum",), ("what is large",), ("sum",)):
            for joined, setting in (("", ()), ("times its sum", ()), ("times its sum", (3,))):
                model = RandomModel(first=first, inner=(2,), steps=steps, joined=joined, setting=setting, second="")
                counts += outcome(model, [(2, 2, 0), (1, 2, 0), (3, 2, 1), (1, 2, 0)])
    assert counts["refused"] == 0
    assert counts["right"] == 54 * 4
    assert min(counts["Rows"], counts["Whole"], counts["shared"]) >= 15
