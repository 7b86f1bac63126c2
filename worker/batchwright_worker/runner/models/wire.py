"""Open Inference Protocol v2 over HTTP with binary tensors, as the client needs it: metadata, requests, answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from numpy.typing import NDArray

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
from batchwright_worker.runner.models.signature import InputSignature, Row, TensorType

__all__ = ["HEADER_LENGTH", "BadAnswerError", "request_parts", "rows_of_answer", "signature_of"]


class BadAnswerError(Exception):
    """The server's answer is no answer of this protocol."""


def signature_of(deployment: str, model: str, raw: bytes) -> InputSignature:
    """From the answer of `/v2/models/{model}`, whose shapes have the batch dimension first. Raises BadAnswerError."""
    try:
        metadata = msgspec.json.decode(raw, type=HttpMetadata)
    except msgspec.MsgspecError as error:
        raise BadAnswerError(f"metadata of {deployment}/{model}: {error}") from error
    return InputSignature(
        deployment=deployment,
        model=model,
        inputs=tuple(_per_row(tensor) for tensor in metadata.inputs or ()),
        outputs=tuple(_per_row(tensor) for tensor in metadata.outputs or ()),
    )


def _per_row(tensor: HttpTensor) -> TensorType:
    return TensorType(name=tensor.name, datatype=tensor.datatype, shape=tuple(tensor.shape[1:]))


def request_parts(rows: Sequence[Row]) -> tuple[bytes, list[bytes | memoryview]]:
    """JSON header and the tensors behind it; rows of one group. Large rows are not copied."""
    tensors: list[bytes | memoryview] = []
    inputs = []
    for index, (name, first) in enumerate(rows[0]):
        datatype = name_of(first.dtype)
        parts = [raw_of(datatype, row[index][1]) for row in rows]
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


def rows_of_answer(body: bytes, header_length: int | None, rows: int) -> list[dict[str, NDArray[Any]]]:
    """One {output: array} per row of the request. Raises BadAnswerError."""
    end = len(body) if header_length is None else header_length
    try:
        answer = msgspec.json.decode(memoryview(body)[:end], type=HttpInferResponse)
    except msgspec.MsgspecError as error:
        raise BadAnswerError(f"the answer's header: {error}") from error
    results: list[dict[str, NDArray[Any]]] = [{} for _ in range(rows)]
    position = end
    for tensor in answer.outputs:
        try:
            array, position = array_of(tensor, body, position)
        except BadTensorError as error:
            raise BadAnswerError(str(error)) from error
        if not array.shape or array.shape[0] != rows:
            raise BadAnswerError(f"output {tensor.name!r} has shape {list(array.shape)}, {rows} rows were asked for")
        for index, result in enumerate(results):
            # a copy where others share the body: one row that is kept must not keep them all
            result[tensor.name] = array[index].copy() if rows > 1 else array[index]
    return results
