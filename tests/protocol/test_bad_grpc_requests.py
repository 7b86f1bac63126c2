"""Bad requests over gRPC: each gets its code and words that name the field and the remedy; the server goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest

from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.protocol.serving import WEIGHTS, Served, held

RAW = np.full(16, 0.5, np.float32).tobytes()


def request(model: str = "linear", raw: list[bytes] | None = None, **changes: Any) -> pb.ModelInferRequest:
    """A good request to `linear`, but for the changes of its one input."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16], **changes}
    return pb.ModelInferRequest(
        model_name=model,
        inputs=[pb.ModelInferRequest.InferInputTensor(**tensor)],
        raw_input_contents=[RAW] if raw is None else raw,
    )


def typed(**contents: Any) -> pb.InferTensorContents:
    return pb.InferTensorContents(**contents)


@dataclass(frozen=True)
class Case:
    """What is sent, and what must come back."""

    name: str
    words: tuple[str, ...]
    message: pb.ModelInferRequest
    code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT
    parameters: dict[str, pb.InferParameter] = field(default_factory=dict)


def two_inputs() -> pb.ModelInferRequest:
    message = request()
    message.inputs.append(message.inputs[0])
    message.raw_input_contents.append(RAW)
    return message


def wanted(output: str) -> pb.ModelInferRequest:
    message = request()
    message.outputs.add(name=output)
    return message


def asking(name: str, **value: Any) -> pb.ModelInferRequest:
    """With a parameter of its output."""
    message = request()
    message.outputs.add(name="y").parameters[name].CopyFrom(pb.InferParameter(**value))
    return message


def in_shared_memory() -> pb.ModelInferRequest:
    message = request(raw=[])
    message.inputs[0].parameters["shared_memory_region"].string_param = "region"
    return message


def versioned(version: str) -> pb.ModelInferRequest:
    message = request()
    message.model_version = version
    return message


def with_parameter(name: str, **value: Any) -> pb.ModelInferRequest:
    message = request()
    message.parameters[name].CopyFrom(pb.InferParameter(**value))
    return message


def with_outputs(count: int) -> pb.ModelInferRequest:
    message = request()
    for number in range(count):
        message.outputs.add(name=f"o{number}")
    return message


def with_parameters(count: int) -> pb.ModelInferRequest:
    message = request()
    for number in range(count):
        message.parameters[f"p{number}"].int64_param = number
    return message


CASES = [
    Case("very many outputs", ("'outputs' has 50000", "at most 1024"), with_outputs(50_000)),
    Case("very many parameters", ("50000 parameters", "at most 256"), with_parameters(50_000)),
    Case("very many dimensions", ("too many dimensions", "given 100000"), request(shape=[1] * 100_000)),
    Case(
        "bytes that are neither true nor false",
        ("'x'", "0 or 1 each, given 7"),
        request("echo-bool", raw=[b"\1\7"], datatype="BOOL", shape=[1, 2]),
    ),
    Case("no inputs", ("input 'x' of model linear is missing",), pb.ModelInferRequest(model_name="linear")),
    Case("an unknown model", ("unknown model: 'nope'", "echo-bf16"), request("nope"), grpc.StatusCode.NOT_FOUND),
    Case("an unknown version", ("no version '3'",), versioned("3"), grpc.StatusCode.NOT_FOUND),
    Case("an unknown input", ("'x'", "missing"), request(name="z")),
    Case("an input twice", ("'x' is there twice",), two_inputs()),
    Case("an unknown output", ("no output 'q'", "['y']"), wanted("q")),
    Case("an unknown datatype", ("unknown datatype", "'FP33'"), request(datatype="FP33")),
    Case("another datatype", ("FP32 [-1, 16]", "INT32"), request(datatype="INT32")),
    Case("another shape", ("FP32 [-1, 16]", "[2, 8]"), request(shape=[2, 8])),
    Case("no dimensions", ("no dimensions",), request(shape=[], raw=[bytes(4)])),
    Case("a negative dimension", ("negative dimension",), request(shape=[-1, 16])),
    Case("no rows", ("number of rows",), request(shape=[0, 16], raw=[b""])),
    Case("a shape beyond memory", ("too large",), request(shape=[65536, 1 << 40])),
    Case("fewer bytes than the shape", ("64 bytes", "60 bytes"), request(raw=[RAW[:60]])),
    Case("more raw contents than inputs", ("raw_input_contents has 2", "wanted 1"), request(raw=[RAW, RAW])),
    Case("raw and typed", ("both contents and raw",), request(contents=typed(fp32_contents=[1.0] * 16))),
    Case(
        "typed that does not fill",
        ("16 elements", "15 elements"),
        request(raw=[], contents=typed(fp32_contents=[1.0] * 15)),
    ),
    Case(
        "typed in the wrong field",
        ("fp32_contents", "int_contents"),
        request(raw=[], contents=typed(int_contents=[1] * 16)),
    ),
    Case(
        "typed in two fields",
        ("int64_contents",),
        request(raw=[], contents=typed(fp32_contents=[1.0] * 16, int64_contents=[1])),
    ),
    Case("neither raw nor typed", ("16 elements", "0 elements"), request(raw=[])),
    Case("FP16 typed", ("FP16", "raw_input_contents"), request("echo-fp16", raw=[], datatype="FP16", shape=[1, 1])),
    Case(
        "an integer out of range",
        ("-128 to 127", "given 300"),
        request("echo-int8", raw=[], datatype="INT8", shape=[1, 2], contents=typed(int_contents=[1, 300])),
    ),
    Case(
        "BYTES that end early",
        ("broken lengths",),
        request("echo-bytes", raw=[b"\x09\0\0\0ab"], datatype="BYTES", shape=[1, 1]),
    ),
    Case("a timeout that is no number", ("'timeout'", "microseconds"), with_parameter("timeout", string_param="1s")),
    Case("a negative priority", ("'priority'",), with_parameter("priority", int64_param=-1)),
    Case("classes", ("'y'", "'classification'"), asking("classification", int64_param=-2)),
    Case("an output to shared memory", ("'y'", "shared memory"), asking("shared_memory_region", string_param="r")),
    Case("an input in shared memory", ("'x'", "shared memory"), in_shared_memory()),
    Case("a sequence", ("'sequence_id'",), with_parameter("sequence_id", int64_param=4)),
]


@pytest.fixture(scope="module")
def stub(served: Served) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc}", options=[("grpc.max_send_message_length", -1)]) as channel:
        yield GRPCInferenceServiceStub(channel)


def good_answer(stub: GRPCInferenceServiceStub) -> None:
    answer = stub.ModelInfer(request(), timeout=60)
    found = np.frombuffer(answer.raw_output_contents[0], np.float32)
    np.testing.assert_allclose(found, np.full(16, 0.5, np.float32) @ WEIGHTS, rtol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_request_gets_its_code_and_remedy(stub: GRPCInferenceServiceStub, case: Case) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(case.message, timeout=60)
    assert raised.value.code() == case.code
    for word in case.words:
        assert word in raised.value.details()
    good_answer(stub)


def test_a_message_beyond_the_cap_is_refused(stub: GRPCInferenceServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(request(raw=[b"x" * 5_000_000]), timeout=60)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    good_answer(stub)


def test_the_deadline_of_a_call_is_kept(stub: GRPCInferenceServiceStub) -> None:
    slow = request("slow", raw=[np.zeros(8, np.float32).tobytes()], shape=[1, 8])
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(slow, timeout=0.02)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    good_answer(stub)


def test_a_deadline_that_cannot_be_met_is_refused_by_the_server(stub: GRPCInferenceServiceStub) -> None:
    slow = request("slow", raw=[np.zeros(8, np.float32).tobytes()], shape=[1, 8])
    slow.parameters["timeout"].int64_param = 1000
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(slow, timeout=60)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_call_that_is_cancelled_cancels_its_rows(served: Served, stub: GRPCInferenceServiceStub) -> None:
    waits = request("held", raw=[np.zeros(8, np.float32).tobytes()], shape=[1, 8])
    before = metric(served, "batchwright_cancelled_requests_total", "held")
    with held(served):
        call = stub.ModelInfer.future(waits, timeout=60)
        wait_for(lambda: metric(served, "nv_inference_pending_request_count", "held") == 1)
        call.cancel()
        wait_for(lambda: metric(served, "batchwright_cancelled_requests_total", "held") == before + 1)
        assert metric(served, "nv_inference_pending_request_count", "held") == 0


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline


def metric(served: Served, name: str, model: str = "slow") -> float:
    text = served.get("/metrics")[2].decode()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f'{name}{{model="{model}"'))


def test_metadata_tells_batch_size_and_expected_wait(stub: GRPCInferenceServiceStub) -> None:
    _, call = stub.ModelInfer.with_call(request(), timeout=60)
    metadata = dict(call.trailing_metadata())
    assert int(metadata["batchwright-batch-size"]) >= 1
    assert int(metadata["batchwright-expected-wait-ms"]) >= 0


GARBAGE = {"no message": b"\xff\xff\xff", "a name that is no UTF-8": b"\x0a\x02\xff\xfe", "cut short": b"\x0a\x09lin"}


@pytest.mark.parametrize("name", GARBAGE)
def test_what_is_no_message_is_told_so(served: Served, stub: GRPCInferenceServiceStub, name: str) -> None:
    """In a stream in its place, between others."""
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc}") as channel:
        for method in ("ModelInfer", "ModelMetadata", "RepositoryModelLoad"):
            with pytest.raises(grpc.RpcError, match="cannot be read") as raised:
                channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(GARBAGE[name], timeout=60)
            assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        good = request().SerializeToString()
        errors = [each.error_message for each in stream(iter([good, GARBAGE[name], good]), timeout=60)]
    assert [bool(error) for error in errors] == [False, True, False]
    assert "cannot be read" in errors[1]
    good_answer(stub)


def test_unknown_models_are_not_found_by_every_call(stub: GRPCInferenceServiceStub) -> None:
    calls = [
        (stub.ModelReady, pb.ModelReadyRequest(name="nope")),
        (stub.ModelMetadata, pb.ModelMetadataRequest(name="nope")),
        (stub.ModelConfig, pb.ModelConfigRequest(name="nope")),
        (stub.ModelStatistics, pb.ModelStatisticsRequest(name="nope")),
    ]
    for call, message in calls:
        with pytest.raises(grpc.RpcError) as raised:
            call(message, timeout=60)
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
