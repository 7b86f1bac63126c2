"""Inference over gRPC at an external server: tensors travel raw, also where its HTTP side takes JSON only."""

from __future__ import annotations

from typing import Any, Final

import grpc
import numpy as np

from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import BatchFailed
from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.datatypes import CONTENTS_FIELDS, name_of, numpy_of
from batchwright_worker.oip.http_tensors import from_raw, raw_of
from batchwright_worker.oip.inference_pb2_grpc import GRPCInferenceServiceStub
from batchwright_worker.sidecar.runtimes.external.http import ServerGoneError
from batchwright_worker.sidecar.runtimes.external.wire import Columns, ServerRefusedError, shape_of

_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_GONE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_STATUS: Final = {
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,
}


class ExternalServerGrpc:
    """`infer` alone; health and repository go over HTTP. A call waits for the port to open, forever: the caller
    must cancel it when health checks say that the server is gone."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel: Any = None
        self._stub: Any = None

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()

    async def infer(self, model: str, columns: Columns) -> dict[str, Array]:
        """One batch. Raises ServerGoneError, ServerRefusedError, BatchFailed."""
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._address, options=_OPTIONS)
            self._stub = GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        try:
            response = await self._stub.ModelInfer(_request(model, columns), wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            message = error.details() or str(error.code())
            if error.code() in _GONE:
                raise ServerGoneError(f"{self._address}: {message}") from error
            raise ServerRefusedError(_STATUS.get(error.code(), 500), message) from error
        return _outputs(response)


def _request(model: str, columns: Columns) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    for name, parts in columns.items():
        datatype = name_of(parts[0].dtype)
        request.inputs.add(name=name, datatype=datatype, shape=shape_of(parts))
        request.raw_input_contents.append(b"".join(raw_of(datatype, part) for part in parts))
    return request


def _outputs(response: pb.ModelInferResponse) -> dict[str, Array]:
    raw = response.raw_output_contents
    try:
        if raw:
            pairs = zip(response.outputs, raw, strict=True)
            return {one.name: from_raw(one.datatype, list(one.shape), data) for one, data in pairs}
        return {one.name: _typed(one) for one in response.outputs}
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise BatchFailed(f"the server's response cannot be read: {error!r}") from error


def _typed(tensor: Any) -> Array:
    if min(tensor.shape, default=0) < 0:
        raise ValueError(f"output {tensor.name!r} has the shape {list(tensor.shape)}")
    values = getattr(tensor.contents, CONTENTS_FIELDS[tensor.datatype])
    if tensor.datatype == "BYTES":
        elements = np.empty(len(values), dtype=np.object_)
        elements[:] = list(values)
        return elements.reshape(list(tensor.shape))
    return np.array(values, dtype=numpy_of(tensor.datatype)).reshape(list(tensor.shape))
