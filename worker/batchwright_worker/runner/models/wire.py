"""Open Inference Protocol v2 over HTTP with binary tensors, as the client needs it: metadata, requests, answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchwright_worker.api.names import CONFIG_DIGEST
from batchwright_worker.oip.datatypes import name_of
from batchwright_worker.oip.http_tensors import (
    HEADER_LENGTH,
    BadTensorError,
    HttpInferResponse,
    HttpMetadata,
    HttpTensor,
    array_of,
    raw_of,
)
from batchwright_worker.runner.models.call import Outputs, PendingRows
from batchwright_worker.runner.models.signature import InputSignature, TensorType

__all__ = [
    "HEADER_LENGTH",
    "BadAnswerError",
    "digests_of",
    "is_whole",
    "outputs_of",
    "preferred_size",
    "request_parts",
    "signature_of",
]


class BadAnswerError(Exception):
    """The server's answer is no answer of this protocol."""


class _Dims(msgspec.Struct):
    name: str
    dims: list[int]


class _ModelConfig(msgspec.Struct):
    """The response of `/v2/models/{model}/config`; `dims` never have a batch dimension."""

    max_batch_size: int
    input: list[_Dims] = []
    output: list[_Dims] = []


class _DynamicBatching(msgspec.Struct, frozen=True):
    preferred_batch_size: tuple[int, ...] = ()


class _Batching(msgspec.Struct):
    """Of the same response."""

    dynamic_batching: _DynamicBatching = _DynamicBatching()


class _Parameters(msgspec.Struct):
    """Of the same response."""

    parameters: dict[str, Any] = {}


def signature_of(deployment: str, model: str, raw_metadata: bytes, raw_config: bytes) -> InputSignature:
    """From the answers of `/v2/models/{model}`, whose shapes have the batch dimension in front where there is one, and
    of its `/config`, which tells where that is. Raises BadAnswerError."""
    try:
        metadata = msgspec.json.decode(raw_metadata, type=HttpMetadata)
        config = msgspec.json.decode(raw_config, type=_ModelConfig)
    except msgspec.MsgspecError as error:
        raise BadAnswerError(f"metadata of {deployment}/{model}: {error}") from error
    dims = {each.name: len(each.dims) for each in (*config.input, *config.output)}
    return InputSignature(
        deployment=deployment,
        model=model,
        inputs=tuple(_tensor_type(tensor, dims) for tensor in metadata.inputs or ()),
        outputs=tuple(_tensor_type(tensor, dims) for tensor in metadata.outputs or ()),
        whole=config.max_batch_size == 0,
    )


def is_whole(raw_config: bytes) -> bool:
    """Has the model no batch dimension, by the answer of `/config`? Raises BadAnswerError."""
    try:
        return msgspec.json.decode(raw_config, type=_ModelConfig).max_batch_size == 0
    except msgspec.MsgspecError as error:
        raise BadAnswerError(f"the model's configuration: {error}") from error


def preferred_size(raw_config: bytes) -> int | None:
    """The size of the server's batches at present, by the answer of `/config`; None where it does not tell."""
    try:
        told = msgspec.json.decode(raw_config, type=_Batching).dynamic_batching.preferred_batch_size
    except msgspec.MsgspecError:
        return None
    return max(told, default=None)


def digests_of(raw_config: bytes) -> dict[str, str]:
    """Kind of accelerator -> digest of what the model was loaded from, out of the answer of `/config`; nothing where
    the server does not tell. Raises BadAnswerError."""
    try:
        parameters = msgspec.json.decode(raw_config, type=_Parameters).parameters
    except msgspec.MsgspecError as error:
        raise BadAnswerError(f"the model's configuration: {error}") from error
    return {
        key.removeprefix(CONFIG_DIGEST): str(value["string_value"])
        for key, value in parameters.items()
        if key.startswith(CONFIG_DIGEST) and isinstance(value, dict) and value.get("string_value")
    }


def _tensor_type(tensor: HttpTensor, dims: Mapping[str, int]) -> TensorType:
    batched = dims.get(tensor.name) != len(tensor.shape)
    shape = tuple(tensor.shape[1:] if batched else tensor.shape)
    return TensorType(name=tensor.name, datatype=tensor.datatype, shape=shape, batched=batched)


def request_parts(pending: Sequence[PendingRows], signature: InputSignature) -> tuple[bytes, list[bytes | memoryview]]:
    """JSON header and the tensors behind it; rows of one group, one row for a model that is run whole. Nothing is
    copied."""
    tensors: list[bytes | memoryview] = []
    inputs = []
    rows = sum(map(len, pending))
    first = pending[0].block
    for index, (name, array) in enumerate(first.inputs):
        datatype = name_of(array.dtype)
        shape = list(array.shape)
        if first.stacked[index]:
            parts = [raw_of(datatype, each.block.inputs[index][1][each.start : each.end]) for each in pending]
            shape = shape[1:] if signature.whole else [rows, *shape[1:]]
        else:
            parts = [raw_of(datatype, array)]
        tensors.extend(parts)
        inputs.append(
            {
                "name": name,
                "datatype": datatype,
                "shape": shape,
                "parameters": {"binary_data_size": sum(map(len, parts))},
            }
        )
    header = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    return msgspec.json.encode(header), tensors


def outputs_of(body: bytes, header_length: int | None, rows: int, signature: InputSignature) -> Outputs:
    """The outputs of a request of so many rows, views on the body; one without a batch dimension is every row's.
    Raises BadAnswerError."""
    end = len(body) if header_length is None else header_length
    try:
        answer = msgspec.json.decode(memoryview(body)[:end], type=HttpInferResponse)
    except msgspec.MsgspecError as error:
        raise BadAnswerError(f"the answer's header: {error}") from error
    outputs: dict[str, NDArray[Any]] = {}
    position = end
    for tensor in answer.outputs:
        try:
            array, position = array_of(tensor, body, position)
        except BadTensorError as error:
            raise BadAnswerError(str(error)) from error
        if not signature.is_batched(tensor.name):
            array = np.broadcast_to(array, (rows, *array.shape))
        elif not array.shape or array.shape[0] != rows:
            raise BadAnswerError(f"output {tensor.name!r} has shape {list(array.shape)}, {rows} rows were asked for")
        outputs[tensor.name] = array
    return outputs
