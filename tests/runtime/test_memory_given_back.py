"""Memory of real frameworks: measured at load and under batches, given back after unload; out of memory said so."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from batchwright_worker.inference.runtime import DeclaredSource, OutOfMemory
from tests.runtime.rig import Rig, file_source, running, spec, write_script

pytestmark = pytest.mark.slow
"""Importing torch and a few hundred MB take seconds."""

MB = 1 << 20
WEIGHTS_BYTES = 128 * MB
WIDTH = 4096
ROWS = 512
"""A batch of so many rows takes 8 MB in, and as much for each layer's output."""
LARGE = 8192
TOLERANCE_BYTES = 16 * MB

SCRIPT = f"""
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear({WIDTH}, {WIDTH}, bias=False)
        self.b = torch.nn.Linear({WIDTH}, {WIDTH}, bias=False)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))[:, :8].contiguous()
"""


def matrix(name: str) -> np.ndarray:
    """Different ones: onnxruntime keeps equal weights once."""
    return np.random.default_rng(ord(name)).standard_normal((WIDTH, WIDTH), np.float32) / 64


def onnx_model(folder: Path) -> DeclaredSource:
    weights = [numpy_helper.from_array(matrix(name), name) for name in "ab"]
    bounds = [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in (("z", 0), ("n", 8))]
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["w"]),
        helper.make_node("Slice", ["w", "z", "n", "axis"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", WIDTH])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 8])]
    graph = helper.make_graph(nodes, "two", inputs, outputs, [*weights, *bounds, axis])
    path = folder / "m.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return file_source(path, "onnx", [], [])


def torch_model(folder: Path) -> DeclaredSource:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    path = folder / "w.safetensors"
    save_file({f"{name}.weight": torch.from_numpy(matrix(name)) for name in "ab"}, path)
    write_script(folder, "module.py", SCRIPT)
    return file_source(path, "safetensors", [spec("x", (WIDTH,))], [spec("y", (8,))], "module.py")


MODELS = {"onnxruntime": (onnx_model, "onnx"), "torch": (torch_model, "safetensors")}


@pytest.mark.parametrize("name", MODELS)
async def test_weights_and_batches_are_measured_and_given_back(tmp_path: Path, name: str) -> None:
    """Three times in a row: what the process holds after each unload is what it held after the first, to 16 MB."""
    make, format_ = MODELS[name]
    source = make(tmp_path)
    async with asyncio.timeout(200), running(tmp_path, formats=(format_,)) as rig:
        after = []
        for _ in range(3):
            report = await rig.client.load("m", source)
            assert 0.9 * WEIGHTS_BYTES <= report.memory_bytes < 2.2 * WEIGHTS_BYTES
            result = await rig.client.run("m", [{"x": np.ones((ROWS, WIDTH), np.float32)}], ROWS)
            assert result.batch_bytes > ROWS * WIDTH * 4  # at least one layer's output
            assert held(rig) > WEIGHTS_BYTES
            await rig.client.unload("m")
            assert (await rig.client.memory()).used_bytes < WEIGHTS_BYTES / 2
            after.append(held(rig))
    assert max(after) - after[0] < TOLERANCE_BYTES


@pytest.mark.parametrize("name", MODELS)
async def test_a_batch_that_does_not_fit_is_out_of_memory_and_a_smaller_one_runs(tmp_path: Path, name: str) -> None:
    make, format_ = MODELS[name]
    source = make(tmp_path)
    async with asyncio.timeout(200), running(tmp_path, formats=(format_,)) as rig:
        await rig.client.load("m", source)
        process = psutil.Process(rig.client.pid)
        process.rlimit(resource.RLIMIT_AS, (process.memory_info().vms + 160 * MB, resource.RLIM_INFINITY))
        with pytest.raises(OutOfMemory):
            await rig.client.run("m", [{"x": np.ones((LARGE, WIDTH), np.float32)}], LARGE)
        result = await rig.client.run("m", [{"x": np.ones((16, WIDTH), np.float32)}], 16)
        assert result.outputs["y"].shape == (16, 8)
        assert process.pid == rig.client.pid


def held(rig: Rig) -> int:
    """Resident memory of the runtime's process without shared memory."""
    info = psutil.Process(rig.client.pid).memory_info()
    return int(info.rss - info.shared)
