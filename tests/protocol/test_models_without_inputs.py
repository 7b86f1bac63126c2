"""A model that takes nothing, as a generator or a table of constants: a request has no inputs, and gets its outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import tritonclient.grpc as triton_grpc
from onnx import TensorProto, helper, save

from tests.protocol.serving import Served, manifest, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("constant")
    node = helper.make_node("Constant", [], ["y"], value_ints=[3, 1, 2])
    graph = helper.make_graph([node], "m", [], [helper.make_tensor_value_info("y", TensorProto.INT64, [3])])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    model = {"name": "m", "artifacts": [{"format": "onnx", "uri": (folder / "m.onnx").as_uri()}]}
    with serving(folder, manifest("constant", [model])) as served:
        yield served


def answer(served: Served, *inputs: str) -> tuple[int, str]:
    tensors = [{"name": name, "datatype": "FP32", "shape": [1], "data": [1]} for name in inputs]
    status, _, body = served.get("/v2/models/m/infer", json.dumps({"inputs": tensors}).encode())
    return status, body.decode()


def test_it_is_served_whole_over_both_protocols(served: Served) -> None:
    status, body = answer(served)
    assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [3, 1, 2])
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
        assert client.infer("m", []).as_numpy("y").tolist() == [3, 1, 2]
        config = client.get_model_config("m").config
        assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (0, [])
    assert "it has no inputs" in served.state()["models"][0]["message"]


def test_an_input_is_refused(served: Served) -> None:
    status, body = answer(served, "x")
    assert status == 400
    assert "has no input 'x'; it takes none" in body
