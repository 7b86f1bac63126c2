"""Two networks with random weights to run together: one bound by compute, one by its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from batchwright_worker.benchmark import reference_model as resnet
from batchwright_worker.benchmark.engines.onnx import GraphOps
from batchwright_worker.benchmark.reference_model import CLASSES, IMAGE_SHAPE

__all__ = ["write_conv", "write_wide"]

_OPSET: Final = 17


def write_conv(path: Path) -> None:
    """ResNet-50: 102 MB of weights, much to compute."""
    ops = GraphOps()
    logits = resnet.forward(ops, "images")
    graph = helper.make_graph(
        ops.nodes,
        "resnet50",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *IMAGE_SHAPE])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in resnet.parameters()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9), path)


def write_wide(path: Path, *, layers: int = 12, width: int = 4096) -> None:
    """Residual layers of `width` x `width` weights (64 MiB each as it comes): much to fetch, little to compute."""
    random = np.random.default_rng(12)
    nodes, weights, at = [], [], "x"
    for layer in range(layers):
        values = random.standard_normal((width, width), dtype=np.float32)
        values *= np.float32(width**-0.5)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes += [
            helper.make_node("MatMul", [at, f"w{layer}"], [f"m{layer}"], name=f"layer{layer}"),
            helper.make_node("Tanh", [f"m{layer}"], [f"t{layer}"]),
            helper.make_node("Add", [f"t{layer}", at], [f"a{layer}"]),
        ]
        at = f"a{layer}"
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info(at, TensorProto.FLOAT, ["n", width])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.weights", size_threshold=4096)
