"""ONNX networks of unusual shape, cut into units: they answer what the whole model answers, or are refused with why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.layerwise.splits import answer
from tests.layerwise.test_split_onnx import alone, opened

WIDTH = 48
RNG = np.random.default_rng(3)
Parts = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def weight(name: str, *shape: int, dtype: object = np.float32) -> onnx.TensorProto:
    values = RNG.standard_normal(shape) / np.sqrt(shape[0])
    return numpy_helper.from_array(values.astype(dtype), name)  # type: ignore[call-overload]


def saved(path: Path, parts: Parts, shape: Sequence[int | str] = ("n", WIDTH)) -> Path:
    nodes, weights = parts
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in "xy")
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def one_layer() -> Parts:
    return [helper.make_node("MatMul", ["x", "w"], ["y"])], [weight("w", WIDTH, WIDTH)]


def no_weights() -> Parts:
    return [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])], []


def chain(count: int) -> Parts:
    """Of MatMuls of 9 KiB."""
    nodes, weights, at = [], [], "x"
    for number in range(count):
        weights.append(weight(f"w{number}", WIDTH, WIDTH))
        to = "y" if number == count - 1 else f"h{number}"
        nodes += [helper.make_node("MatMul", [at, f"w{number}"], [f"m{number}"])]
        nodes += [helper.make_node("Tanh", [f"m{number}"], [to])]
        at = to
    return nodes, weights


def tied() -> Parts:
    """One weight in the first, the third and the last unit."""
    nodes, weights = chain(5)
    for number in (2, 4):
        nodes[2 * number].input[1] = "w0"
    return nodes, [each for each in weights if each.name not in ("w2", "w4")]


def zero_bytes_between() -> Parts:
    """Units with weights, and operations without any that are the widest part."""
    nodes, weights = chain(2)
    nodes[2].input[0] = "s"
    nodes += [helper.make_node("Softmax", ["h0"], ["p"]), helper.make_node("Erf", ["p"], ["s"])]
    return [nodes[0], nodes[1], nodes[4], nodes[5], nodes[2], nodes[3]], weights


def mixed_types() -> Parts:
    """float16, float64, bfloat16 and int8 weights beside float32 ones."""
    nodes, weights = chain(1)
    nodes[1].output[0], at = "h0", "h0"
    kinds = {"half": TensorProto.FLOAT16, "double": TensorProto.DOUBLE}
    for name, kind in kinds.items():
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        weights.append(weight(f"w_{name}", WIDTH, WIDTH, dtype=dtype))
        nodes += [
            helper.make_node("Cast", [at], [f"c_{name}"], to=kind),
            helper.make_node("MatMul", [f"c_{name}", f"w_{name}"], [f"m_{name}"]),
            helper.make_node("Cast", [f"m_{name}"], [f"h_{name}"], to=TensorProto.FLOAT),
        ]
        at = f"h_{name}"
    weights.append(weight("w_brain", WIDTH, WIDTH, dtype=ml_dtypes.bfloat16))
    nodes += [
        helper.make_node("Cast", ["w_brain"], ["w_cast"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", [at, "w_cast"], ["h_brain"]),
    ]
    weights += [
        numpy_helper.from_array(RNG.integers(-99, 99, (WIDTH, 4 * WIDTH)).astype(np.int8), "w_int8"),
        numpy_helper.from_array(np.float32(0.01), "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
        weight("w_last", 4 * WIDTH, WIDTH),
    ]
    nodes += [
        helper.make_node("DequantizeLinear", ["w_int8", "scale", "zero"], ["w_float"]),
        helper.make_node("MatMul", ["h_brain", "w_float"], ["h_int8"]),
        helper.make_node("MatMul", ["h_int8", "w_last"], ["y"]),
    ]
    return nodes, weights


def four_bits() -> Parts:
    """Weights of half a byte each."""
    values = RNG.integers(-7, 7, (WIDTH, 8 * WIDTH))
    packed = helper.make_tensor("w_int4", TensorProto.INT4, values.shape, values.ravel())
    nodes = [
        helper.make_node("DequantizeLinear", ["w_int4", "scale"], ["w_float"]),
        helper.make_node("MatMul", ["x", "w_float"], ["h"]),
        helper.make_node("MatMul", ["h", "w_last"], ["y"]),
    ]
    return nodes, [packed, numpy_helper.from_array(np.float32(0.1), "scale"), weight("w_last", 8 * WIDTH, WIDTH)]


def rows_in_the_middle() -> Parts:
    """Rows become pairs of half rows, whose number is worked out from the input's shape, and come second on the way."""
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "i0", "i1"], ["count"]),
        helper.make_node("Mul", ["count", "two"], ["twice"]),
        helper.make_node("Concat", ["twice", "half"], ["halves"], axis=0),
        helper.make_node("Reshape", ["a", "halves"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"]),
        helper.make_node("Transpose", ["c"], ["d"], perm=[1, 0]),
        helper.make_node("MatMul", ["w2", "d"], ["e"]),
        helper.make_node("Transpose", ["e"], ["f"], perm=[1, 0]),
        helper.make_node("Concat", ["count", "all"], ["rows"], axis=0),
        helper.make_node("Reshape", ["f", "rows"], ["g"]),
        helper.make_node("MatMul", ["g", "w3"], ["y"]),
    ]
    numbers = {"i0": [0], "i1": [1], "two": [2], "half": [WIDTH], "all": [2 * WIDTH]}
    constants = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in numbers.items()]
    matrices = [weight("w0", WIDTH, 2 * WIDTH), weight("w3", 2 * WIDTH, WIDTH)]
    return nodes, [*constants, *matrices, *(weight(name, WIDTH, WIDTH) for name in ("w1", "w2"))]


NETWORKS: dict[str, tuple[Callable[[], Parts], int]] = {
    "one layer": (one_layer, 1),
    "no weights": (no_weights, 1),
    "100 small layers": (lambda: chain(100), 100),
    "tied weights": (tied, 5),
    "operations without weights": (zero_bytes_between, 2),
    "mixed types": (mixed_types, 6),
    "four bits": (four_bits, 2),
    "rows in the middle": (rows_in_the_middle, 4),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_strange_network_in_units_answers_what_it_answers_whole(kind: str, tmp_path: Path) -> None:
    build, units = NETWORKS[kind]
    path = saved(tmp_path / "net.onnx", build())
    network = opened(path, tmp_path, 8 * 1024)
    assert len(network.index.units) == units
    for rows in (1, 3):
        x = np.random.default_rng(rows).standard_normal((rows, WIDTH)).astype(np.float32)
        np.testing.assert_array_equal(answer(network, {"x": x}, rows)["y"], alone(path, {"x": x})[0])
    network.close()


def test_a_tied_weight_lies_in_each_unit_that_uses_it(tmp_path: Path) -> None:
    """Each unit can be read by itself."""
    network = opened(saved(tmp_path / "net.onnx", tied()), tmp_path, 8 * 1024)
    assert [sorted(piece.name for piece in unit.pieces) for unit in network.index.units] == [
        [name] for name in ("w0", "w1", "w0", "w3", "w0")
    ]
    network.close()
