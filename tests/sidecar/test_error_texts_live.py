"""Whatever text a model raises, its caller reads it, over HTTP and gRPC, and no process dies of it."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.protocol.serving import Served, serving
from tests.sidecar.misbehaving import EXIT, INTERRUPT, LONG, ROW, SURROGATE, UNPRINTABLE, ask, odd_manifest
from tests.sidecar.misbehaving import odd_model as model

TEXTS = {
    SURROGATE: "ValueError: bad \\xe9 text \\x00",
    EXIT: "SystemExit(3) was raised by the model's own code",
    INTERRUPT: "KeyboardInterrupt() was raised by the model's own code",
    LONG: "ValueError: EEEEEEEEEE",
    UNPRINTABLE: "Unprintable: its text cannot be made: RuntimeError",
    ROW: "\\xe9RRRRRRRR",
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("texts"), odd_manifest("texts", [model("odd")])) as served:
        yield served


def retried(served: Served) -> float:
    lines = served.get("/metrics")[2].decode().splitlines()
    return float(next(line for line in lines if line.startswith("batchwright_retried_batches_total{")).split()[-1])


@pytest.mark.parametrize("code", TEXTS)
def test_over_http(odd: Served, code: int) -> None:
    status, answer = ask(odd, "odd", code)
    assert status == 500
    assert TEXTS[code] in answer["error"]
    assert len(answer["error"].encode()) <= 1000
    assert ask(odd, "odd", 0)[0] == 200
    assert retried(odd) == 0


@pytest.mark.parametrize("code", TEXTS)
def test_over_grpc(odd: Served, code: int) -> None:
    request = pb.ModelInferRequest(model_name="odd")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([code, 1.0])
    with grpc.insecure_channel(f"127.0.0.1:{odd.grpc}") as channel:
        stub = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as failure:
            stub.ModelInfer(request)
    assert failure.value.code() == grpc.StatusCode.INTERNAL
    assert TEXTS[code] in failure.value.details()


def test_a_bad_row_fails_alone_whatever_it_raises(odd: Served) -> None:
    status, answer = ask(odd, "odd", 0, 0, EXIT, 0)
    assert status == 500
    assert "failed on row 2: SystemExit(3)" in answer["error"]
