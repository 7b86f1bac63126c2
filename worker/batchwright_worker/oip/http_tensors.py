"""Tensors in Open Inference Protocol messages over HTTP, as a client of a server needs them: JSON or raw bytes."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchwright_worker.oip.datatypes import decode_bytes, encode_bytes, numpy_of

HEADER_LENGTH: Final = "Inference-Header-Content-Length"


class HttpTensor(msgspec.Struct):
    """An input or output in metadata (without data) or in a response."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: Any = None


class HttpMetadata(msgspec.Struct):
    """The response of `/v2/models/{model}`; shapes have the batch dimension first."""

    name: str
    inputs: list[HttpTensor] | None = None
    outputs: list[HttpTensor] | None = None


class HttpInferResponse(msgspec.Struct):
    """The response (or its JSON part) of `/v2/models/{model}/infer`."""

    outputs: list[HttpTensor]


class BadTensorError(ValueError):
    """A tensor of a response that does not add up; the message names it."""


def raw_of(datatype: str, array: NDArray[Any]) -> bytes | memoryview:
    """The tensor's bytes as the binary extension carries them, without a copy where it is contiguous."""
    if datatype == "BYTES":
        return encode_bytes(array)
    if not array.nbytes:
        return b""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def array_of(tensor: HttpTensor, body: bytes, position: int) -> tuple[NDArray[Any], int]:
    """The tensor, and where the next one's bytes begin: raw ones lie in `body` from `position` on. Raises
    BadTensorError."""
    dtype = numpy_of(tensor.datatype)
    if dtype is None:
        raise BadTensorError(f"output {tensor.name!r} has the unknown datatype {tensor.datatype}")
    size = (tensor.parameters or {}).get("binary_data_size")
    try:
        if size is None:
            return _from_json(tensor, dtype), position
        raw = memoryview(body)[position : position + size]
        return from_raw(tensor.datatype, tensor.shape, raw), position + size
    except (TypeError, ValueError) as error:
        raise BadTensorError(f"output {tensor.name!r}: {error}") from error


def from_raw(datatype: str, shape: list[int], raw: bytes | memoryview) -> NDArray[Any]:
    """A view on the bytes (BYTES elements are copies). Raises ValueError unless they fill the shape exactly."""
    if datatype == "BYTES":
        return decode_bytes(raw, math.prod(shape)).reshape(shape)
    return np.frombuffer(raw, dtype=numpy_of(datatype)).reshape(shape)


def _from_json(tensor: HttpTensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    if tensor.datatype != "BYTES":
        return np.asarray(tensor.data, dtype=dtype).reshape(tensor.shape)
    flat = np.array(tensor.data, dtype=object).reshape(-1)
    values = np.empty(len(flat), dtype=object)
    values[:] = [element.encode() if isinstance(element, str) else element for element in flat]
    return values.reshape(tensor.shape)
