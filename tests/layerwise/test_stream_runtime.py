"""A runtime process in layerwise mode: several models' batches at once, within a budget below their sum."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from batchwright_worker.api.deployment import Artifact, Emulated
from batchwright_worker.inference.runtime import BatchFailed, BatchMode, DeclaredSource
from batchwright_worker.layerwise.profiling.profiles import ENV_CACHE
from tests.layerwise.test_split_onnx import alone, conv_net
from tests.runtime.rig import KIND_EMULATED, running

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_CACHE, str(tmp_path / "cache"))


def onnx_source(path: Path) -> DeclaredSource:
    return DeclaredSource(artifact=Artifact(format="onnx", uri=path.as_uri()))


def emulated_source(weights: int, load_ms: int, fixed_us: int) -> DeclaredSource:
    emulated = Emulated(weights_bytes=weights, load_milliseconds=load_ms, fixed_microseconds=fixed_us)
    return DeclaredSource(artifact=Artifact(format="emulated", accelerator=KIND_EMULATED, emulated=emulated))


async def test_two_models_share_a_budget_that_holds_neither(tmp_path: Path) -> None:
    for name in ("a", "b"):
        conv_net(tmp_path / f"{name}.onnx")
    layerwise = {"mode": "Balanced", "memoryBudgetBytes": 240_000}
    async with running(tmp_path, formats=("onnx",), layerwise=layerwise) as rig:
        told = [await rig.client.load(name, onnx_source(tmp_path / f"{name}.onnx")) for name in ("a", "b")]
        assert [spec.name for spec in told[0].inputs] == ["x"]
        streamed = rig.client.streamed
        assert sum(each.weight_bytes for each in streamed.values()) > 240_000
        x = np.random.default_rng(2).standard_normal((3, 3, 16, 16)).astype(np.float32)
        await rig.client.run("a", [{"x": x}], 3)
        before = rig.client.streams
        results = await asyncio.gather(*(rig.client.run(name, [{"x": x}], 3) for name in "abab"))
        for name, result in zip("abab", results, strict=True):
            np.testing.assert_array_equal(result.outputs["y"], alone(tmp_path / f"{name}.onnx", {"x": x})[0])
        streams = rig.client.streams
        assert before is not None
        assert streams is not None
        assert streams.units - before.units == 4 * streamed["a"].units
        assert 0 < streams.peak_bytes <= streams.capacity_bytes <= 180_000
        assert streams.compute_busy_seconds > 0


async def test_a_unit_above_the_budget_is_refused_with_the_figure_that_is_needed(tmp_path: Path) -> None:
    path = conv_net(tmp_path / "a.onnx")
    layerwise = {"mode": "Literal", "memoryBudgetBytes": 50_000}
    async with running(tmp_path, formats=("onnx",), layerwise=layerwise) as rig:
        with pytest.raises(BatchFailed, match="raise memoryBudgetBytes to"):
            await rig.client.load("a", onnx_source(path))
        with pytest.raises(BatchFailed, match="not loaded"):
            await rig.client.run("a", [{"x": np.zeros((1, 3, 16, 16), np.float32)}], 1)


async def test_a_format_without_layers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"x")
    async with running(tmp_path, layerwise={"mode": "Literal", "memoryBudgetBytes": 50_000}) as rig:
        with pytest.raises(BatchFailed, match=r"torchscript cannot be cut into layers.*Off"):
            await rig.client.load("a", DeclaredSource(artifact=Artifact(format="torchscript", uri=path.as_uri())))
        with pytest.raises(BatchFailed, match="only models of rows"):
            await rig.client.load(
                "a", DeclaredSource(artifact=Artifact(format="onnx", uri=path.as_uri()), mode="Whole")
            )


async def test_emulated_models_interleave_and_answer_right(tmp_path: Path) -> None:
    layerwise = {"mode": "Balanced", "memoryBudgetBytes": 1000, "skipLimit": 4}
    async with running(tmp_path, KIND_EMULATED, layerwise=layerwise) as rig:
        await rig.client.load("compute", emulated_source(200, 10, 80_000))
        await rig.client.load("weights", emulated_source(2000, 80, 10_000))
        inputs = [{"x": np.eye(4, dtype=np.float32)}]
        results = await asyncio.gather(*(rig.client.run(name, inputs, 4) for name in ("compute", "weights")))
        for result in results:
            assert result.outputs["argmax"].reshape(-1).tolist() == [0, 1, 2, 3]
        streams = rig.client.streams
        assert streams is not None
        assert streams.peak_bytes <= 750
        await rig.client.unload("weights")
        with pytest.raises(BatchFailed, match="not loaded"):
            await rig.client.run("weights", inputs, 4)


async def test_a_batch_under_way_is_answered_before_the_runtime_stops(tmp_path: Path) -> None:
    layerwise = {"mode": "Balanced", "memoryBudgetBytes": 1000}
    async with running(tmp_path, KIND_EMULATED, layerwise=layerwise) as rig:
        await rig.client.load("m", emulated_source(200, 10, 300_000))
        run = asyncio.ensure_future(rig.client.run("m", [{"x": np.eye(2, dtype=np.float32)}], 2))
        await asyncio.sleep(0)  # it is sent
        await rig.client.load("n", emulated_source(200, 1, 1000))  # which the runtime is asked for behind the batch
        rig.process.terminate()
        assert (await run).outputs["argmax"].reshape(-1).tolist() == [0, 1]


@pytest.mark.parametrize("mode", [None, "Rows"])
async def test_a_model_whose_rows_influence_each_other_is_refused(tmp_path: Path, mode: BatchMode | None) -> None:
    """Batches of several callers are run layer by layer, so its answers would be mixed."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Softmax", ["h"], ["p"], axis=0),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32), name)
        for name in "wv"
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy")
    graph = helper.make_graph(nodes, "m", [x], [y], weights)
    path = tmp_path / "mixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    source = replace(onnx_source(path), mode=mode)
    layerwise = {"mode": "Balanced", "memoryBudgetBytes": 240_000}
    async with running(tmp_path, formats=("onnx",), layerwise=layerwise) as rig:
        with pytest.raises(BatchFailed, match="changes with the row behind it"):
            await rig.client.load("a", source)
        with pytest.raises(BatchFailed, match="not loaded"):
            await rig.client.run("a", [{"x": np.zeros((1, 64), np.float32)}], 1)
        good = conv_net(tmp_path / "b.onnx")
        report = await rig.client.load("b", onnx_source(good))
        assert report.plan is not None
        assert report.plan.mode == "Rows"
