"""Tensors in Open Inference Protocol messages over HTTP, as a client of a server needs them: JSON or raw bytes."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchwright_worker.oip.datatypes import RAW_ONLY, decode_bytes, encode_bytes, numpy_of, stays_finite
from batchwright_worker.oip.json_values import BadValuesError, array_of_values
from batchwright_worker.oip.nonfinite import has_tokens, loads

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
    """The tensor's bytes as the binary extension carries them (little-endian), without a copy where they lie so. Raises
    BadBytesError."""
    if datatype == "BYTES":
        return encode_bytes(array)
    if not array.nbytes:
        return b""
    if not array.dtype.isnative:  # as files of astronomy and of digits have them; `name_of` looks past it
        array = array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def array_of(tensor: HttpTensor, body: bytes, position: int) -> tuple[NDArray[Any], int]:
    """The tensor, and where the next one's bytes begin: raw ones lie in `body` from `position` on. Raises
    BadTensorError."""
    size = (tensor.parameters or {}).get("binary_data_size")
    try:
        _check_shape(tensor.datatype, tensor.shape)
        if size is None:
            return _from_json(tensor), position
        raw = _taken(body, position, size)
        return from_raw(tensor.datatype, tensor.shape, raw), position + len(raw)
    except (TypeError, ValueError) as error:
        raise BadTensorError(f"output {tensor.name!r}: {error}") from error


def _taken(body: bytes, position: int, size: object) -> memoryview:
    """The next `size` bytes. Raises ValueError."""
    if type(size) is not int or not 0 <= size <= len(body) - position:
        raise ValueError(f"binary_data_size is {size!r}, and {len(body) - position} bytes are left")
    return memoryview(body)[position : position + size]


def from_raw(datatype: str, shape: list[int], raw: bytes | memoryview) -> NDArray[Any]:
    """A view on the bytes (BYTES elements are copies). Raises ValueError unless they fill the shape exactly."""
    _check_shape(datatype, shape)
    if datatype == "BYTES":
        return decode_bytes(raw, math.prod(shape)).reshape(shape)
    return np.frombuffer(raw, dtype=numpy_of(datatype)).reshape(shape)


def infer_response(body: bytes | memoryview) -> HttpInferResponse:
    """Of a response's JSON part, which may have the tokens NaN and Infinity. Raises msgspec.MsgspecError,
    BadTensorError."""
    try:
        response = msgspec.json.decode(body, type=HttpInferResponse)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if not has_tokens(memoryview(body)):
            raise
        response = msgspec.convert(_loaded(body), HttpInferResponse)
    names = [tensor.name for tensor in response.outputs]
    if len(set(names)) < len(names):
        raise BadTensorError(f"an output is there twice: {sorted(names)}")
    return response


def _loaded(body: bytes | memoryview) -> Any:
    try:
        return loads(memoryview(body))
    except (ValueError, RecursionError) as error:
        raise BadTensorError(str(error)) from error


def _check_shape(datatype: str, shape: list[int]) -> None:
    """Raises ValueError."""
    if numpy_of(datatype) is None:
        raise ValueError(f"the datatype {datatype!r} is unknown")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape {shape} has a negative size")


def _from_json(tensor: HttpTensor) -> NDArray[Any]:
    dtype = numpy_of(tensor.datatype)
    assert dtype is not None, "see _check_shape"
    if not isinstance(tensor.data, list):
        raise TypeError("it has neither a list of data nor binary_data_size")
    shape = tuple(tensor.shape)
    if tensor.datatype not in RAW_ONLY:
        return array_of_values(tensor.data, tensor.datatype, dtype, shape)
    # Some servers write half floats as numbers.
    return _rounded(array_of_values(tensor.data, "FP32", np.dtype(np.float32), shape), tensor.datatype, dtype)


def _rounded(array: NDArray[Any], datatype: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        rounded = array.astype(dtype)
    if not stays_finite(rounded, array):
        raise BadValuesError("has a number out of range", f"numbers that {datatype} can hold", "a larger one", "")
    return rounded
