"""ONNX models cut into units answer bit by bit what a session of the whole model answers that packs no weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from batchwright_worker.backends.base import Host, LoadError
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.networks.onnx import OnnxUnits, open_onnx
from batchwright_worker.layerwise.networks.open import open_network
from batchwright_worker.layerwise.networks.units import NotDivisible
from tests.layerwise.splits import answer

HOST = Host(kind="cpu", threads=2, emulated_memory=EmulatedMemory(0))
RNG = np.random.default_rng(5)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    values = RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
    return numpy_helper.from_array(values.astype(np.float32), name)


def conv_net(path: Path, batch: int | str = "n") -> Path:
    """A stem, two residual blocks with normalisation, a head; a loop would be next."""
    nodes = [helper.make_node("Conv", ["x", "w0"], ["a"], kernel_shape=[3, 3], pads=[1] * 4)]
    weights = [weight("w0", 32, 3, 3, 3)]
    at = "a"
    for block in range(2):
        names = [f"{part}{block}" for part in ("w1", "w2", "s", "b", "m", "v")]
        weights += [weight(names[0], 32, 32, 3, 3), weight(names[1], 32, 32, 3, 3)]
        weights += [numpy_helper.from_array(np.abs(RNG.standard_normal(32)).astype(np.float32), n) for n in names[2:]]
        nodes += [
            helper.make_node("Conv", [at, names[0]], [f"c{block}"], kernel_shape=[3, 3], pads=[1] * 4),
            helper.make_node("BatchNormalization", [f"c{block}", *names[2:]], [f"n{block}"]),
            helper.make_node("Relu", [f"n{block}"], [f"r{block}"]),
            helper.make_node("Conv", [f"r{block}", names[1]], [f"d{block}"], kernel_shape=[3, 3], pads=[1] * 4),
            helper.make_node("Add", [f"d{block}", at], [f"e{block}"]),
            helper.make_node("Relu", [f"e{block}"], [f"f{block}"]),
        ]
        at = f"f{block}"
    nodes += [
        helper.make_node("GlobalAveragePool", [at], ["p"]),
        helper.make_node("Flatten", ["p"], ["q"]),
        helper.make_node("MatMul", ["q", "w9"], ["y"]),
    ]
    weights.append(weight("w9", 32, 600))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 600])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def branch_net(path: Path) -> Path:
    """A branch whose bodies take a weight from around them, a mask that lives long."""
    then = helper.make_graph([helper.make_node("MatMul", ["h", "wt"], ["o1"])], "t", [], [_any("o1")])
    other = helper.make_graph([helper.make_node("Identity", ["h"], ["o2"])], "e", [], [_any("o2")])
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["g"]),
        helper.make_node("Add", ["g", "mask"], ["h"]),
        helper.make_node("ReduceMax", ["mask"], ["top"], keepdims=0),
        helper.make_node("Cast", ["top"], ["flag"], to=TensorProto.BOOL),
        helper.make_node("If", ["flag"], ["i"], then_branch=then, else_branch=other),
        helper.make_node("Add", ["i", "mask"], ["j"]),
        helper.make_node("MatMul", ["j", "w1"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 40]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", 40]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 40])],
        [weight("w0", 40, 40), weight("wt", 40, 40), weight("w1", 40, 40)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def _any(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 40])


def opened(path: Path, folder: Path, limit: int = 1 << 20) -> OnnxUnits:
    source = ModelSource(name="net", format="onnx", path=str(path), inputs=[], outputs=[])
    return open_onnx(source, HOST, lambda digest: folder / digest, limit)


def alone(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, inputs)


@pytest.mark.parametrize("limit", [1 << 20, 8192])
def test_convolutions_in_units_answer_bitwise_the_same(limit: int, tmp_path: Path) -> None:
    path = conv_net(tmp_path / "net.onnx")
    network = opened(path, tmp_path, limit)
    assert len(network.index.units) == (3 if limit > 8192 else 5)
    for rows in (1, 3):
        x = np.random.default_rng(rows).standard_normal((rows, 3, 16, 16)).astype(np.float32)
        np.testing.assert_array_equal(answer(network, {"x": x}, rows)["y"], alone(path, {"x": x})[0])


def test_branches_and_masks_cross_the_cuts(tmp_path: Path) -> None:
    path = branch_net(tmp_path / "net.onnx")
    network = opened(path, tmp_path)
    assert len(network.index.units) > 1
    for top in (0.0, 1.0):
        x = np.random.default_rng(1).standard_normal((2, 40)).astype(np.float32)
        mask = np.full((2, 40), top, np.float32)
        found = answer(network, {"x": x, "mask": mask}, 2)
        np.testing.assert_array_equal(found["y"], alone(path, {"x": x, "mask": mask})[0])


def saved(path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], outputs: tuple[str, ...]) -> Path:
    """From `x`, 40 a row."""
    graph = helper.make_graph(nodes, "net", [_any("x")], [_any(name) for name in outputs], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def branches_with_weights(path: Path) -> Path:
    """Both bodies have a weight of their own, of the same name, and one in a branch within a branch."""

    def body(name: str, *inner: onnx.NodeProto) -> onnx.GraphProto:
        nodes = [helper.make_node("MatMul", ["g", "mine"], [f"{name}0"]), *inner]
        return helper.make_graph(nodes, name, [], [_any(nodes[-1].output[0])], [weight("mine", 40, 40)])

    deeper = helper.make_node("If", ["low"], ["q"], then_branch=body("deep"), else_branch=body("deeper"))
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["g"]),
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "zero"], ["high"]),
        helper.make_node("Less", ["top", "minus"], ["low"]),
        helper.make_node("If", ["high"], ["i"], then_branch=body("then"), else_branch=body("else", deeper)),
        helper.make_node("MatMul", ["i", "w1"], ["y"]),
    ]
    bounds = [numpy_helper.from_array(np.float32(value), name) for name, value in (("zero", 0), ("minus", -5))]
    return saved(path, nodes, [weight("w0", 40, 40), weight("w1", 40, 40), *bounds], ("y",))


def test_weights_in_the_bodies_of_branches_are_streamed_too(tmp_path: Path) -> None:
    path = branches_with_weights(tmp_path / "net.onnx")
    network = opened(path, tmp_path, 8192)
    assert sum(len(unit.pieces) for unit in network.index.units) == 6
    for shift in (0.0, -3.0, -9.0):  # each of the three ways
        x = np.random.default_rng(1).uniform(-1, 1, (2, 40)).astype(np.float32) + np.float32(shift)
        np.testing.assert_array_equal(answer(network, {"x": x}, 2)["y"], alone(path, {"x": x})[0])


def test_weights_that_are_listed_as_inputs_are_weights(tmp_path: Path) -> None:
    """As exporters wrote them up to IR version 3."""
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["h"]), helper.make_node("MatMul", ["h", "w1"], ["y"])]
    path = saved(tmp_path / "net.onnx", nodes, [weight("w0", 40, 40), weight("w1", 40, 40)], ("y",))
    model = onnx.load(path)
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [40, 40]) for name in ("w0", "w1"))
    onnx.save(model, path)
    network = opened(path, tmp_path, 8192)
    assert [spec.name for spec in network.inputs] == ["x"]
    assert network.index.weight_bytes >= 2 * 40 * 40 * 4
    x = np.random.default_rng(1).standard_normal((2, 40)).astype(np.float32)
    np.testing.assert_array_equal(answer(network, {"x": x}, 2)["y"], alone(path, {"x": x})[0])


def test_an_output_that_is_a_weight_is_refused_by_name(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["y"]), helper.make_node("Identity", ["w1"], ["told"])]
    path = saved(tmp_path / "net.onnx", nodes, [weight("w0", 40, 40), weight("w1", 40, 40)], ("y", "told"))
    with pytest.raises(NotDivisible, match="output 'told' of the model does not depend on its inputs"):
        opened(path, tmp_path)


def test_text_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["text"], ["said"])],
        "net",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["n", 1])],
        [helper.make_tensor_value_info("said", TensorProto.STRING, ["n", 1])],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    with pytest.raises(NotDivisible, match="text"):
        opened(path, tmp_path)


def test_a_fixed_batch_dimension_runs_in_pieces_and_is_prepared_once(tmp_path: Path) -> None:
    path = conv_net(tmp_path / "net.onnx", batch=2)
    network = opened(path, tmp_path)
    again = opened(path, tmp_path)
    assert again.index == network.index
    x = np.random.default_rng(3).standard_normal((3, 3, 16, 16)).astype(np.float32)
    expected = np.concatenate([alone(path, {"x": part})[0] for part in (x[:2], x[[2, 2]])])[:3]
    np.testing.assert_array_equal(answer(again, {"x": x}, 3)["y"], expected)


def test_a_file_that_is_no_model_says_so(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(LoadError, match="no usable ONNX model"):
        opened(path, tmp_path)


def test_a_folder_is_opened_by_the_model_in_it_and_prepared_again_when_its_weights_change(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = conv_net(folder / "net.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    source = ModelSource(name="net", format="onnx", path=str(folder), inputs=[], outputs=[])
    x = {"x": np.random.default_rng(3).standard_normal((2, 3, 16, 16)).astype(np.float32)}
    before = alone(path, x)[0]
    np.testing.assert_array_equal(answer(open_network(source, HOST, tmp_path / "cache", 1 << 20), x, 2)["y"], before)
    (folder / "net.data").write_bytes(bytes((folder / "net.data").stat().st_size))
    after = answer(open_network(source, HOST, tmp_path / "cache", 1 << 20), x, 2)["y"]
    np.testing.assert_array_equal(after, alone(path, x)[0])
    assert not np.array_equal(after, before)
