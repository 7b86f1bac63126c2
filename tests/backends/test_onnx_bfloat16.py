"""bfloat16 in and out of onnxruntime, which has no numpy type for it."""

from __future__ import annotations

import gc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, save

from batchwright_worker.backends.base import Host
from batchwright_worker.backends.onnx import OnnxModel, load
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.ipc.messages import ModelSource


@pytest.fixture
def model(tmp_path: Path) -> OnnxModel:
    """y = x, of any shape with a batch dimension."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, ["n", "m"])],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, ["n", "m"])],
    )
    path = tmp_path / "m.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    source = ModelSource(name="m", format="onnx", path=str(path), inputs=[], outputs=[])
    return load(source, Host(kind="cpu", threads=1, emulated_memory=EmulatedMemory(0)))


def test_every_bit_pattern_comes_back(model: OnnxModel) -> None:
    bits = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    output = model.run({"x": bits.view(ml_dtypes.bfloat16)}, 256)["y"]
    assert output.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(output.view(np.uint16), bits)


def test_an_output_keeps_its_memory_when_the_session_is_gone(model: OnnxModel) -> None:
    value = np.full((512, 512), 1.5, ml_dtypes.bfloat16)
    kept = [model.run({"x": value * factor}, 512)["y"] for factor in np.array([1, 2, 4], ml_dtypes.bfloat16)]
    model.close()
    gc.collect()
    others = [np.full((512, 512), 7, np.uint16) for _ in range(20)]
    assert [float(output.max()) for output in kept] == [1.5, 3.0, 6.0]
    assert [float(output.min()) for output in kept] == [1.5, 3.0, 6.0]
    assert len(others) == 20


def test_an_empty_dimension(model: OnnxModel) -> None:
    output = model.run({"x": np.empty((3, 0), ml_dtypes.bfloat16)}, 3)["y"]
    assert (output.shape, output.dtype) == ((3, 0), ml_dtypes.bfloat16)
