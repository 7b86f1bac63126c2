"""A small residual network for 3x32x32 inputs (the shape of the emulated model's rows), written with onnx alone.

Nine 3x3 convolutions of 16, 32 and 64 channels in three stages (about 40 M multiply-adds per row); its weights are
random: only its time matters, and that its answers are those of the same network run directly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

STAGES = (16, 32, 64)
BLOCKS = 3
CLASSES = 10


@dataclass(slots=True)
class _Graph:
    """Nodes and weights as they are added; every method returns the name of its output."""

    generator: Any
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        scale = (2 / max(1, int(np.prod(shape[1:])))) ** 0.5
        values = self.generator.normal(scale=scale, size=shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def convolve(self, source: str, channels: tuple[int, int], stride: int, kernel: int = 3) -> str:
        weight = self.weight(channels[1], channels[0], kernel, kernel)
        edge = kernel // 2
        return self.add("Conv", [source, weight], strides=[stride, stride], pads=[edge] * 4)

    def block(self, source: str, channels: tuple[int, int], stride: int) -> str:
        inner = self.add("Relu", [self.convolve(source, channels, stride)])
        outer = self.convolve(inner, (channels[1], channels[1]), 1)
        past = source if channels[0] == channels[1] else self.convolve(source, channels, stride, 1)
        return self.add("Relu", [self.add("Add", [outer, past])])


def write_network(path: Path) -> Path:
    """Input x [n, 3, 32, 32], output y [n, 10]."""
    graph = _Graph(np.random.default_rng(20))
    last = graph.add("Relu", [graph.convolve("x", (3, STAGES[0]), 1)])
    before = STAGES[0]
    for stage, channels in enumerate(STAGES):
        for block in range(BLOCKS):
            last = graph.block(last, (before, channels), 2 if stage and not block else 1)
            before = channels
    pooled = graph.add("Flatten", [graph.add("GlobalAveragePool", [last])])
    graph.nodes.append(helper.make_node("MatMul", [pooled, graph.weight(before, CLASSES)], ["y"]))
    whole = helper.make_graph(
        graph.nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        graph.weights,
    )
    save(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
