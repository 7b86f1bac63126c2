"""Loads of ONNX models on a CPU beside the batches of other models."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from batchwright_worker.inference.runtime import DeclaredSource
from tests.runtime.rig import Rig, file_source, running


def waves(folder: Path, nodes: int) -> DeclaredSource:
    """A model of so many nodes; a few thousand take some tenths of a second to load, and next to no memory."""
    path = folder / f"waves-{nodes}.onnx"
    steps = [helper.make_node("Sin" if i % 2 else "Cos", [f"v{i}"], [f"v{i + 1}"]) for i in range(nodes)]
    inputs, outputs = (
        [helper.make_tensor_value_info(f"v{which}", TensorProto.FLOAT, ["rows", 1])] for which in (0, nodes)
    )
    graph = helper.make_graph(steps, "waves", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return file_source(path, "onnx", [], [])


async def batches_during_a_load(rig: Rig) -> int:
    """How many batches of one model end before the load of another one does that was asked for before them."""
    await rig.client.load("small", waves(rig.folder, 2))
    x = np.zeros((1, 1), np.float32)
    loading = asyncio.ensure_future(rig.client.load("large", waves(rig.folder, 4000)))
    await asyncio.sleep(0)
    ended = 0
    while True:
        result = await rig.client.run("small", [{"v0": x}], 1)
        assert result.outputs["v2"][0, 0] == pytest.approx(np.sin(np.cos(0)))
        if loading.done():
            break
        ended += 1
    assert (await loading).memory_bytes >= 0
    answer = await rig.client.run("large", [{"v0": x}], 1)
    assert answer.outputs["v4000"].shape == (1, 1)
    return ended


async def test_batches_of_other_models_go_on_during_a_load(tmp_path: Path) -> None:
    async with running(tmp_path, formats=("onnx",), overlaps_loads=True) as rig:
        most = await batches_during_a_load(rig)
        for _ in range(4):  # the machine may hold us up meanwhile
            if most >= 3:
                break
            await rig.client.unload("small")
            await rig.client.unload("large")
            most = await batches_during_a_load(rig)
        assert most >= 3


async def test_loads_keep_their_place_in_the_order_where_a_format_asks_for_it(tmp_path: Path) -> None:
    async with running(tmp_path, formats=("onnx",)) as rig:
        # The one behind the load may end in the same turn of the event loop.
        assert await batches_during_a_load(rig) <= 1


async def test_what_a_model_takes_is_known_from_the_load_that_nothing_disturbed(tmp_path: Path) -> None:
    async with running(tmp_path, formats=("onnx",), overlaps_loads=True) as rig:
        source = waves(rig.folder, 4000)
        alone = await rig.client.load("large", source)
        await rig.client.load("small", waves(rig.folder, 2))
        await rig.client.unload("large")
        loading = asyncio.ensure_future(rig.client.load("large", source))
        while not loading.done():
            await rig.client.run("small", [{"v0": np.zeros((1, 1), np.float32)}], 1)
        assert (await loading).memory_bytes == alone.memory_bytes
