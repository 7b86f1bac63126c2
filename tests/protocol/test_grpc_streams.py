"""ModelStreamInfer: requests that a client sends ahead run together; answers come in the order of the requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import grpc
import numpy as np
import pytest

from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.inference_pb2_grpc import GRPCInferenceServiceStub
from batchwright_worker.protocol.grpc.server import STREAM_REQUESTS
from tests.protocol.serving import Served, held
from tests.protocol.test_bad_grpc_requests import metric, request, wait_for


@pytest.fixture
def stub(served: Served) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc}") as channel:
        yield GRPCInferenceServiceStub(channel)


def slow(number: int) -> pb.ModelInferRequest:
    """To the model whose every batch takes 150 ms."""
    message = request("slow", raw=[np.full(8, number, np.float32).tobytes()], shape=[1, 8])
    message.id = str(number)
    return message


def test_requests_of_one_stream_run_together_and_are_answered_in_order(
    served: Served, stub: GRPCInferenceServiceStub
) -> None:
    before = metric(served, "nv_inference_exec_count")
    answers = [each.infer_response for each in stub.ModelStreamInfer(map(slow, range(60)), timeout=60)]
    assert [answer.id for answer in answers] == [str(number) for number in range(60)]
    assert metric(served, "nv_inference_exec_count") - before < 30


def test_an_error_stays_in_its_place(stub: GRPCInferenceServiceStub) -> None:
    wrong = request("nope")
    wrong.id = "wrong"
    refused = request("linear")
    refused.id = "refused"
    refused.outputs.add(name="y").parameters["classification"].int64_param = -2
    answers = list(stub.ModelStreamInfer(iter([slow(1), wrong, refused, slow(2)]), timeout=60))
    assert [answer.infer_response.id for answer in answers] == ["1", "wrong", "refused", "2"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, True, False]
    assert "unknown model: 'nope'" in answers[1].error_message
    assert "classification" in answers[2].error_message
    assert answers[0].infer_response.parameters["triton_final_response"].bool_param


def test_a_stream_holds_a_bounded_number_of_requests(served: Served, stub: GRPCInferenceServiceStub) -> None:
    answers = stub.ModelStreamInfer(map(slow, range(2 * STREAM_REQUESTS)), timeout=60)
    seen = [metric(served, "nv_inference_pending_request_count") for _ in islice(answers, STREAM_REQUESTS)]
    assert STREAM_REQUESTS / 2 < max(seen) <= STREAM_REQUESTS + 1
    assert len(list(answers)) == STREAM_REQUESTS


def test_pings_of_a_client_end_neither_its_call_nor_its_connection(served: Served) -> None:
    """Two pings too early are forgiven, the third would end the connection: gRPC takes one in five minutes."""
    options = [
        ("grpc.keepalive_time_ms", 600),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc}", options=options) as channel:
        stub = GRPCInferenceServiceStub(channel)
        over = threading.Event()

        def late() -> Iterator[pb.ModelInferRequest]:
            yield slow(1)
            over.wait(3.2)
            yield slow(2)

        answers = stub.ModelStreamInfer(late(), timeout=60)
        assert [answer.infer_response.id for answer in answers] == ["1", "2"]


def test_a_stream_that_is_cancelled_cancels_its_rows(served: Served, stub: GRPCInferenceServiceStub) -> None:
    closing = threading.Event()

    def requests() -> Iterator[pb.ModelInferRequest]:
        yield slow(0)
        yield from (request("held", raw=[np.zeros(8, np.float32).tobytes()], shape=[1, 8]) for _ in range(100))
        closing.wait(60)

    def pending() -> float:
        return metric(served, "nv_inference_pending_request_count", "held")

    before = metric(served, "batchwright_cancelled_requests_total", "held")
    with held(served):
        answers = stub.ModelStreamInfer(requests(), timeout=60)
        assert next(answers).infer_response.id == "0"
        wait_for(lambda: pending() > 1)
        answers.cancel()
        closing.set()
        wait_for(lambda: pending() == 0)
        assert metric(served, "batchwright_cancelled_requests_total", "held") > before + 1
