"""Open Inference Protocol v2 over HTTP with binary tensors, as the client needs it: metadata, requests, answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchwright_worker.oip.datatypes import BadBytesError, decode_bytes, encode_bytes, name_of, numpy_of
from batchwright_worker.runner.signature import Row, Signature, TensorType

HEADER_LENGTH: Final = "Inference-Header-Content-Length"


class BadAnswerError(Exception):
    """The server's answer is no answer of this protocol."""


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: Any = None


class _Metadata(msgspec.Struct):
    name: str
    inputs: list[_Tensor] = []
    outputs: list[_Tensor] = []


class _Answer(msgspec.Struct):
    outputs: list[_Tensor]


def signature_of(deployment: str, model: str, raw: bytes) -> Signature:
    """From the answer of `/v2/models/{model}`, whose shapes have the batch dimension first. Raises BadAnswerError."""
    try:
        metadata = msgspec.json.decode(raw, type=_Metadata)
    except msgspec.MsgspecError as error:
        raise BadAnswerError(f"metadata of {deployment}/{model}: {error}") from error
    return Signature(
        deployment=deployment,
        model=model,
        inputs=tuple(_per_row(tensor) for tensor in metadata.inputs),
        outputs=tuple(_per_row(tensor) for tensor in metadata.outputs),
    )


def _per_row(tensor: _Tensor) -> TensorType:
    return TensorType(name=tensor.name, datatype=tensor.datatype, shape=tuple(tensor.shape[1:]))


def request_parts(rows: Sequence[Row]) -> tuple[bytes, list[bytes | memoryview]]:
    """JSON header and the tensors behind it; rows of one group. Large rows are not copied."""
    tensors: list[bytes | memoryview] = []
    inputs = []
    for index, (name, first) in enumerate(rows[0]):
        datatype = name_of(first.dtype)
        parts = [_encoded(datatype, row[index][1]) for row in rows]
        tensors.extend(parts)
        inputs.append(
            {
                "name": name,
                "datatype": datatype,
                "shape": [len(rows), *first.shape],
                "parameters": {"binary_data_size": sum(len(part) for part in parts)},
            }
        )
    header = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    return msgspec.json.encode(header), tensors


def _encoded(datatype: str, array: NDArray[Any]) -> bytes | memoryview:
    if datatype == "BYTES":
        return encode_bytes(array)
    if not array.nbytes:
        return b""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def rows_of_answer(body: bytes, header_length: int | None, rows: int) -> list[dict[str, NDArray[Any]]]:
    """One {output: array} per row of the request. Raises BadAnswerError."""
    end = len(body) if header_length is None else header_length
    try:
        answer = msgspec.json.decode(memoryview(body)[:end], type=_Answer)
    except msgspec.MsgspecError as error:
        raise BadAnswerError(f"the answer's header: {error}") from error
    results: list[dict[str, NDArray[Any]]] = [{} for _ in range(rows)]
    position = end
    for tensor in answer.outputs:
        array, position = _decoded(tensor, body, position)
        if not array.shape or array.shape[0] != rows:
            raise BadAnswerError(f"output {tensor.name!r} has shape {list(array.shape)}, {rows} rows were asked for")
        for index, result in enumerate(results):
            # a copy where others share the body: one row that is kept must not keep them all
            result[tensor.name] = array[index].copy() if rows > 1 else array[index]
    return results


def _decoded(tensor: _Tensor, body: bytes, position: int) -> tuple[NDArray[Any], int]:
    dtype = numpy_of(tensor.datatype)
    if dtype is None:
        raise BadAnswerError(f"output {tensor.name!r} has the unknown datatype {tensor.datatype}")
    size = tensor.parameters.get("binary_data_size")
    try:
        if size is None:
            return np.asarray(tensor.data, dtype=dtype).reshape(tensor.shape), position
        raw = memoryview(body)[position : position + size]
        if tensor.datatype == "BYTES":
            count = int(np.prod(tensor.shape))
            return decode_bytes(raw, count).reshape(tensor.shape), position + size
        return np.frombuffer(raw, dtype=dtype).reshape(tensor.shape), position + size
    except (ValueError, BadBytesError) as error:
        raise BadAnswerError(f"output {tensor.name!r}: {error}") from error
