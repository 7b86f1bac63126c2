"""Callers over gRPC, checked as those over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import numpy as np

from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.reliability.callers import HOST, Answer
from tests.reliability.fates import Row


class GrpcCaller:
    """Many calls over one channel."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"{HOST}:{port}")
        self._stub = GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> GrpcCaller:
        await self._channel.channel_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def ask(self, rows: Sequence[Row], model: str = "m") -> Answer:
        """The answer as HTTP would give it: gRPC's own code names stand in the body's `code`."""
        try:
            response = await self._stub.ModelInfer(_request(rows, model))
        except grpc.aio.AioRpcError as error:
            status = {grpc.StatusCode.INTERNAL: 500, grpc.StatusCode.INVALID_ARGUMENT: 400}.get(error.code(), 503)
            return Answer(status, {"error": error.details(), "code": error.code().name})
        output = response.outputs[0]
        data = np.frombuffer(response.raw_output_contents[0], np.float32).tolist()
        return Answer(200, {"outputs": [{"shape": list(output.shape), "data": data}]})

    async def leave(self, rows: Sequence[Row], after_s: float, model: str = "m") -> None:
        """Ask, and cancel the call after a while."""
        call = self._stub.ModelInfer(_request(rows, model))
        await asyncio.sleep(after_s)
        call.cancel()


def _request(rows: Sequence[Row], model: str) -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[len(rows), len(rows[0])])
    return pb.ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[np.array(rows, np.float32).tobytes()]
    )
