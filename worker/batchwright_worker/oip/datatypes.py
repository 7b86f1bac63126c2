"""Datatypes of the Open Inference Protocol as numpy types, and the encoding of BYTES tensors.

BF16 is `ml_dtypes.bfloat16`, a type of its own, so that it is never taken for UINT16. BYTES is an object array of
`bytes`, or `EncodedBytes`, which passes for one.
"""

from __future__ import annotations

import functools
import struct
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from batchwright_worker.oip.encoded_bytes import BadBytesError, bytes_of, is_encoded

__all__ = [
    "CONTENTS_FIELDS",
    "DATATYPES",
    "RAW_ONLY",
    "BadBytesError",
    "decode_bytes",
    "encode_bytes",
    "encoded_size",
    "name_of",
    "numpy_of",
    "stays_finite",
]

_NUMPY: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BYTES": np.dtype(np.object_),
}
DATATYPES: Final = tuple(_NUMPY)
_NAMES: Final = {dtype: name for name, dtype in _NUMPY.items()}
CONTENTS_FIELDS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype -> field of gRPC's InferTensorContents."""
RAW_ONLY: Final = ("FP16", "BF16")
"""Datatypes that neither JSON nor typed contents can carry."""
_LENGTH: Final = struct.Struct("<I")
_MANY: Final = 4096
"""From so many elements of BYTES on pyarrow is several times faster than a loop (docs/design/0004-own-parts.md)."""


def numpy_of(datatype: str) -> np.dtype[Any] | None:
    """The numpy type of a protocol name; None for an unknown name."""
    return _NUMPY.get(datatype)


def stays_finite(converted: NDArray[Any], values: NDArray[Any]) -> bool:
    """Has no number of `values` become an infinity in its new type?"""
    finite = np.isfinite(converted)
    return bool(finite.all()) or bool((finite == np.isfinite(values)).all())


def name_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name; text types are BYTES. Raises ValueError for a type that the protocol lacks."""
    if dtype.kind in "SU":
        return "BYTES"
    name = _NAMES.get(dtype.newbyteorder("="))
    if name is None:
        raise ValueError(f"the Open Inference Protocol has no datatype for numpy's {dtype}")
    return name


@functools.cache
def _byte_pages() -> Any:
    """The faster way for many elements; None where the image has no pyarrow."""
    try:
        from batchwright_worker.oip import byte_pages
    except ModuleNotFoundError:
        return None
    return byte_pages


def encode_bytes(array: NDArray[Any]) -> bytes:
    """Every element as 4 bytes little-endian length and its bytes; text is written as UTF-8. Raises BadBytesError."""
    if is_encoded(array):
        return bytes(array.data)
    elements = array.reshape(-1)
    if elements.dtype == object and elements.size >= _MANY and (pages := _byte_pages()) is not None:
        encoded: bytes | None = pages.encode(elements)
        if encoded is not None:
            return encoded
    parts: list[bytes] = []
    for element in elements.tolist():
        value = element if type(element) is bytes else bytes_of(element)
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


def encoded_size(array: NDArray[Any]) -> int:
    """How many bytes `encode_bytes` makes of it."""
    if is_encoded(array):
        return array.nbytes
    elements = array.reshape(-1).tolist()
    plain = elements if set(map(type, elements)) == {bytes} else map(bytes_of, elements)
    return _LENGTH.size * len(elements) + sum(map(len, plain))


def decode_bytes(data: bytes | memoryview, count: int) -> NDArray[Any]:
    """`count` elements, one-dimensional. Raises BadBytesError unless they fill `data` exactly."""
    if count * _LENGTH.size > len(data):
        raise BadBytesError(f"it has {len(data)} bytes, too few for the lengths of {count} elements")
    if count >= _MANY and (pages := _byte_pages()) is not None:
        decoded: NDArray[Any] | None = pages.decode(data, count)
        if decoded is not None:
            return decoded
    return _decode_each(memoryview(data), count)


def _decode_each(data: memoryview, count: int) -> NDArray[Any]:
    values = np.empty(count, dtype=np.object_)
    size, at = len(data), 0
    for index in range(count):
        start = at + _LENGTH.size
        if start > size:
            raise BadBytesError(f"it ends before element {index} of {count}")
        (length,) = _LENGTH.unpack_from(data, at)
        at = start + length
        if at > size:
            raise BadBytesError(f"element {index} claims {length} bytes, {size - start} are left")
        values[index] = data[start:at].tobytes()
    if at != size:
        raise BadBytesError(f"{size - at} bytes follow the last of {count} elements")
    return values
