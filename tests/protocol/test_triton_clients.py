"""tritonclient, unmodified, over HTTP and gRPC against real processes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
from google.protobuf.json_format import ParseDict
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException

from tests.protocol.serving import DATATYPES, WEIGHTS, Served

X = np.random.default_rng(3).normal(size=(5, 16)).astype(np.float32)
VALUES = {
    "BOOL": np.array([[True, False, True]]),
    "BYTES": np.array([[b"", b"\x00\xff", "straße".encode()]], dtype=object),
    "FP16": np.array([[0.5, -2.0, 65504.0]], dtype=np.float16),
    "BF16": np.array([[0.5, -2.0, 3.0e38]], dtype=ml_dtypes.bfloat16),
    "FP32": np.array([[0.5, -2.0, np.inf]], dtype=np.float32),
    "FP64": np.array([[0.5, -2.0, 1e300]]),
}


def value_of(datatype: str) -> np.ndarray:
    """One row of three elements, the extremes of the type among them."""
    if datatype in VALUES:
        return VALUES[datatype]
    dtype = np.dtype(datatype.lower())
    return np.array([[np.iinfo(dtype).min, 1, np.iinfo(dtype).max]], dtype=dtype)


@pytest.fixture(scope="module")
def http(served: Served):
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.http}") as client:
        yield client


@pytest.fixture(scope="module")
def grpc(served: Served):
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
        yield client


def http_input(array: np.ndarray, datatype: str, *, binary: bool = True) -> triton_http.InferInput:
    tensor = triton_http.InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def grpc_input(array: np.ndarray, datatype: str) -> triton_grpc.InferInput:
    tensor = triton_grpc.InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_http_answers_a_linear_model(http, binary_in: bool, binary_out: bool) -> None:
    result = http.infer(
        "linear",
        [http_input(X, "FP32", binary=binary_in)],
        outputs=[triton_http.InferRequestedOutput("y", binary_data=binary_out)],
        request_id="seven",
    )
    np.testing.assert_allclose(result.as_numpy("y"), X @ WEIGHTS, rtol=1e-5, atol=1e-6)
    assert result.get_response()["id"] == "seven"
    assert result.get_response()["model_version"] == "1"


def test_grpc_answers_a_linear_model(grpc) -> None:
    result = grpc.infer("linear", [grpc_input(X, "FP32")], request_id="seven", client_timeout=60)
    np.testing.assert_allclose(result.as_numpy("y"), X @ WEIGHTS, rtol=1e-5, atol=1e-6)
    assert result.get_response().id == "seven"


async def test_grpc_streams_answers_in_order(served: Served) -> None:
    async def requests():
        for rows in (1, 2, 3):
            yield {"model_name": "linear", "inputs": [grpc_input(X[:rows], "FP32")], "request_id": str(rows)}

    async with triton_grpc_aio.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
        answers = [(result.get_response().id, error) async for result, error in client.stream_infer(requests())]
    assert answers == [("1", None), ("2", None), ("3", None)]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_http_carries_every_datatype_as_bytes(http, datatype: str) -> None:
    value = value_of(datatype)
    result = http.infer(f"echo-{datatype.lower()}", [http_input(value, datatype)])
    np.testing.assert_array_equal(result.as_numpy("y"), value)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("FP16", "BF16")])
def test_http_carries_every_datatype_as_json(http, datatype: str) -> None:
    value = np.array([["", "a", "straße"]], dtype=object) if datatype == "BYTES" else value_of(datatype)
    outputs = [triton_http.InferRequestedOutput("y", binary_data=False)]
    result = http.infer(f"echo-{datatype.lower()}", [http_input(value, datatype, binary=False)], outputs=outputs)
    assert result.as_numpy("y").tolist() == value.tolist()


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_nan_and_infinities_arrive_as_they_were_sent(http, datatype: str, binary_in: bool, binary_out: bool) -> None:
    value = np.array([[np.nan, np.inf, -np.inf, -0.0, 1.5]], dtype=f"float{datatype[2:]}")
    outputs = [triton_http.InferRequestedOutput("y", binary_data=binary_out)]
    result = http.infer(f"echo-{datatype.lower()}", [http_input(value, datatype, binary=binary_in)], outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("y"), value)
    assert np.signbit(result.as_numpy("y")[0, 3])


@pytest.mark.parametrize("datatype", DATATYPES)
def test_grpc_carries_every_datatype_as_bytes(grpc, datatype: str) -> None:
    value = value_of(datatype)
    result = grpc.infer(f"echo-{datatype.lower()}", [grpc_input(value, datatype)])
    np.testing.assert_array_equal(result.as_numpy("y"), value)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_grpc_takes_compressed_messages(grpc, coding: str) -> None:
    result = grpc.infer("linear", [grpc_input(X, "FP32")], compression_algorithm=coding)
    np.testing.assert_allclose(result.as_numpy("y"), X @ WEIGHTS, rtol=1e-5, atol=1e-6)
    bomb = np.zeros((20_000, 16 * 16), np.float32)
    with pytest.raises(InferenceServerException, match="larger than max"):
        grpc.infer("linear", [grpc_input(bomb, "FP32")], compression_algorithm=coding)


def test_health_and_metadata_agree_on_both_protocols(http, grpc) -> None:
    for client in (http, grpc):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("linear", "1")
    by_http, by_grpc = http.get_model_metadata("linear"), grpc.get_model_metadata("linear", as_json=True)
    assert by_http["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
    assert by_grpc["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "16"]}]
    assert by_http["platform"] == by_grpc["platform"] == "onnxruntime_onnx"
    assert http.get_server_metadata()["extensions"] == list(grpc.get_server_metadata().extensions)


def test_configuration_and_repository_agree_on_both_protocols(http, grpc) -> None:
    by_http, by_grpc = http.get_model_config("linear"), grpc.get_model_config("linear").config
    assert by_http["max_batch_size"] == by_grpc.max_batch_size == 32
    for preferred in (
        by_http["dynamic_batching"]["preferred_batch_size"],
        by_grpc.dynamic_batching.preferred_batch_size,
    ):
        assert [1 <= size <= 32 for size in preferred] == [True]
    [only] = by_http["input"]
    assert (only["name"], only["data_type"], only["dims"], only["format"]) == ("x", "TYPE_FP32", [16], "FORMAT_NONE")
    told = ParseDict(by_http, ModelConfig())
    for each in (told, by_grpc):
        each.ClearField("dynamic_batching")  # whose size is tuned meanwhile
    assert told == by_grpc
    assert list(by_grpc.output[0].dims) == [4]
    states = {model["name"]: model["state"] for model in http.get_model_repository_index()}
    assert states == {model.name: model.state for model in grpc.get_model_repository_index().models}
    assert states["linear"] == "READY"


def test_statistics_count_rows_and_batches(http, grpc) -> None:
    before = http.get_inference_statistics("linear")["model_stats"][0]
    http.infer("linear", [http_input(X, "FP32")])
    grpc.infer("linear", [grpc_input(X[:2], "FP32")])
    after = http.get_inference_statistics("linear")["model_stats"][0]
    by_grpc = grpc.get_inference_statistics("linear").model_stats[0]
    assert by_grpc.inference_count == after["inference_count"] == before["inference_count"] + 7
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 2
    assert by_grpc.execution_count == after["execution_count"] >= before["execution_count"] + 2
    assert rows_run(after) == rows_run(before) + 7


def rows_run(statistics: dict[str, Any]) -> int:
    return sum(entry["batch_size"] * entry["compute_infer"]["count"] for entry in statistics["batch_stats"])


def test_loading_by_callers_is_off_unless_asked_for(http, grpc) -> None:
    with pytest.raises(Exception, match="repositoryControl: true"):
        http.unload_model("linear")
    with pytest.raises(Exception, match="repositoryControl: true"):
        grpc.load_model("linear")
    assert http.is_model_ready("linear")


def test_no_shared_memory_is_registered(http) -> None:
    words = "no region can be registered; send tensors in the body"
    with pytest.raises(InferenceServerException, match=words):
        http.register_system_shared_memory("r", "/r", 64)
    with pytest.raises(InferenceServerException, match=words):
        http.get_system_shared_memory_status()
    with pytest.raises(InferenceServerException, match=words):
        http.register_cuda_shared_memory("r", b"handle", 0, 64)
