"""A batch as one Open Inference request to an external server, and the server's response as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import BatchFailed, TensorSpec
from batchwright_worker.oip.datatypes import DATATYPES, RAW_ONLY, name_of, numpy_of
from batchwright_worker.oip.http_tensors import (
    BadTensorError,
    HttpMetadata,
    HttpTensor,
    array_of,
    infer_response,
    raw_of,
)
from batchwright_worker.oip.nonfinite import with_tokens
from batchwright_worker.texts import presentable

Columns = Mapping[str, Sequence[Array]]
"""Per input the arrays that are one tensor, one after the other along the first dimension."""
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "failed to allocate", "bad_alloc", "cannot allocate memory")
_BUSY = (408, 429, 502, 503, 504)


class ServerRefusedError(Exception):
    """The server has answered with an error; `status` is HTTP's, `retry_after_s` what it says of when to try again."""

    def __init__(self, status: int, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(presentable(message))
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def busy(self) -> bool:
        """Would the same request do at another time?"""
        return self.status in _BUSY

    @property
    def too_large(self) -> bool:
        """Would a smaller batch do? Its body is too long (413), or the text says that memory ran out (there is no
        status for that)."""
        text = str(self).lower()
        return self.status == 413 or any(words in text for words in _OUT_OF_MEMORY)


def binary_request(columns: Columns) -> tuple[bytes, list[bytes | memoryview]]:
    """JSON header, and what follows it: each input's parts one after the other, which is their concatenation."""
    header: dict[str, Any] = {"inputs": [], "parameters": {"binary_data_output": True}}
    tensors: list[bytes | memoryview] = []
    for name, parts in columns.items():
        datatype = name_of(parts[0].dtype)
        raw = [raw_of(datatype, part) for part in parts]
        tensors += raw
        parameters = {"binary_data_size": sum(len(each) for each in raw)}
        header["inputs"].append(_described(name, datatype, parts) | {"parameters": parameters})
    return msgspec.json.encode(header), tensors


def json_request(columns: Columns) -> bytes:
    """For servers without the binary extension. Raises BatchFailed for datatypes that JSON cannot carry."""
    inputs = []
    for name, parts in columns.items():
        datatype = name_of(parts[0].dtype)
        if datatype in RAW_ONLY:
            raise BatchFailed(
                f"input {name!r} is {datatype}, which travels as raw bytes only, and this server does not know the "
                "binary tensor extension: write its grpcPort in spec.runtimes"
            )
        data: Any = [value for part in parts for value in _plain(part, datatype)]
        if any(part.dtype.kind == "f" and not np.isfinite(part).all() for part in parts):
            data = with_tokens(data)  # msgspec would write null
        inputs.append(_described(name, datatype, parts) | {"data": data})
    return msgspec.json.encode({"inputs": inputs})


def outputs_of(body: bytes, header_length: int | None) -> dict[str, Array]:
    """Raises BatchFailed for an answer that is none of this protocol."""
    end = len(body) if header_length is None else header_length
    try:
        answer = infer_response(memoryview(body)[:end])
        outputs, position = {}, end
        for tensor in answer.outputs:
            outputs[tensor.name], position = array_of(tensor, body, position)
    except (msgspec.MsgspecError, BadTensorError) as error:
        raise BatchFailed(f"the server's answer cannot be read: {error}") from error
    if position != len(body):
        raise BatchFailed(f"the server's answer cannot be read: its outputs end at byte {position} of {len(body)}")
    return outputs


def specs_of(body: bytes) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs with their whole shapes, from model metadata. Raises BatchFailed."""
    try:
        metadata = msgspec.json.decode(body, type=HttpMetadata)
    except msgspec.MsgspecError as error:
        raise BatchFailed(f"the server's metadata cannot be read: {error}") from error
    return _specs("inputs", metadata.inputs), _specs("outputs", metadata.outputs)


def _specs(what: str, tensors: Sequence[HttpTensor] | None) -> tuple[TensorSpec, ...]:
    """Raises BatchFailed."""
    for one in tensors or ():
        if numpy_of(one.datatype) is None or min(one.shape, default=0) < -1:
            raise BatchFailed(
                f"the server's metadata cannot be used: its {what} have {one.name!r} as {one.datatype} {one.shape}; "
                f"wanted is one of {', '.join(DATATYPES)}, and sizes from -1 (any) on"
            )
    found = {
        one.name: TensorSpec(name=one.name, datatype=one.datatype, shape=tuple(one.shape), batched=False)
        for one in tensors or ()
    }
    if len(found) < len(tensors or ()):
        raise BatchFailed(f"the server's metadata cannot be used: its {what} have one name twice")
    return tuple(found.values())


def shape_of(parts: Sequence[Array]) -> list[int]:
    """Of the tensor that the parts are together; one alone may have no dimension."""
    first = parts[0]
    return list(first.shape) if len(parts) == 1 else [sum(map(len, parts)), *first.shape[1:]]


def _described(name: str, datatype: str, parts: Sequence[Array]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape_of(parts)}


def _plain(array: Array, datatype: str) -> list[Any]:
    flat: list[Any] = array.reshape(-1).tolist()
    if datatype != "BYTES":
        return flat
    try:
        return [element if isinstance(element, str) else bytes(element).decode() for element in flat]
    except UnicodeDecodeError as error:
        raise BatchFailed(
            f"BYTES that are no UTF-8 text need raw bytes, which this server takes over gRPC only: {error}; "
            "write its grpcPort in spec.runtimes"
        ) from error
