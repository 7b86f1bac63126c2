"""A request's tensors, whatever they travelled in: checked and capped before anything of their size is allocated.

Both front ends describe an input as name, datatype and shape and hand over its bytes (`from_bytes`) or its values
(`from_values`); what comes out is an array that fits exactly, or a BadInput that names the input, what is wanted, what
was given and what to do. Bytes are not copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import Array
from batchwright_worker.oip.datatypes import DATATYPES, BadBytesError, decode_bytes, numpy_of

RAW_ONLY = ("FP16", "BF16")
"""Datatypes that JSON and typed contents cannot carry."""


_ANY = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may ask this process to hold, and how long a client may take to send it."""

    body_bytes: int = 64 << 20
    json_bytes: int = 16 << 20
    header_bytes: int = 64 << 10
    rows: int = 65_536
    rank: int = 16
    elements: int = 1 << 28
    inputs: int = 64
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 75.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """An input as a request describes it, checked by `describe`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    elements: int

    def bad(self, problem: str, wanted: str, given: str, remedy: str) -> BadInput:
        """The error that names this input."""
        return BadInput(
            f"input {self.name!r} {problem}: wanted {wanted}, given {given}; {remedy}",
            input_name=self.name,
            wanted=wanted,
            given=given,
        )


def describe(name: str, datatype: str, shape: Sequence[int], limits: Limits) -> Described:
    """Raises BadInput for an unknown datatype or a shape beyond the limits."""
    dtype = numpy_of(datatype)
    good = (
        dtype is not None
        and 0 < len(shape) <= limits.rank
        and min(shape) >= 0
        and 1 <= shape[0] <= limits.rows
        and math.prod(shape) <= limits.elements
    )
    described = Described(
        name=name,
        datatype=datatype,
        shape=tuple(shape),
        dtype=_ANY if dtype is None else dtype,
        elements=math.prod(shape) if good else 0,
    )
    if not good:
        raise _beyond(described, limits)
    return described


def _beyond(described: Described, limits: Limits) -> BadInput:
    """What is wrong with a datatype or shape that `describe` does not take."""
    bad, shape = described.bad, described.shape
    if numpy_of(described.datatype) is None:
        wanted = " | ".join(DATATYPES)
        return bad("has an unknown datatype", wanted, repr(described.datatype), "use one of these names")
    if not shape:
        return bad("has no dimensions", "[rows, ...]", "[]", "put the batch dimension first, [1] for one number")
    if len(shape) > limits.rank:
        return bad(
            "has too many dimensions", f"at most {limits.rank}", str(len(shape)), "reshape it to fewer dimensions"
        )
    if min(shape) < 0:
        return bad("has a negative dimension", "sizes of at least 0", str(list(shape)), "write the real size")
    if not 1 <= shape[0] <= limits.rows:
        remedy = "send at least one row, and large sets in pieces"
        return bad("has a bad number of rows", f"1 to {limits.rows}", str(shape[0]), remedy)
    return bad("is too large", f"at most {limits.elements} elements", str(list(shape)), "send fewer rows at a time")


def from_bytes(described: Described, data: memoryview) -> Array:
    """The tensor as a view on its little-endian, row-major bytes; BYTES elements carry 4-byte lengths."""
    if described.datatype == "BYTES":
        if described.elements * 4 > len(data):
            raise _length(described, f"at least {described.elements * 4}", len(data))
        try:
            return decode_bytes(data, described.elements).reshape(described.shape)
        except BadBytesError as error:
            raise described.bad(
                "has broken lengths", "4 bytes little-endian length before each element", str(error), "encode it anew"
            ) from error
    size = described.elements * described.dtype.itemsize
    if size != len(data):
        raise _length(described, str(size), len(data))
    return np.frombuffer(data, dtype=described.dtype).reshape(described.shape)


def from_values(described: Described, values: object) -> Array:
    """The tensor from JSON values: flat, or nested as the shape says."""
    if described.datatype in RAW_ONLY:
        raise described.bad(
            "cannot travel as JSON numbers",
            "raw bytes",
            f"{described.datatype} data",
            "set binary_data_size and append the bytes",
        )
    try:
        array = np.array(values, dtype=object) if described.datatype == "BYTES" else _plain(described, values)
    except (ValueError, OverflowError, RecursionError) as error:
        raise described.bad(
            "has ragged or over-long data",
            f"shape {list(described.shape)}",
            "lists of unequal length or depth",
            "send a flat list, or one nested as the shape says",
        ) from error
    if array.size != described.elements or (array.ndim > 1 and array.shape != described.shape):
        raise described.bad(
            "has data that does not fill its shape",
            f"{described.elements} elements for shape {list(described.shape)}",
            f"{array.size} elements in shape {list(array.shape)}",
            "make data and shape agree",
        )
    return _converted(described, array).reshape(described.shape)


def _plain(described: Described, values: object) -> Array:
    """As numpy reads it; but it would make floats of integers beyond 2**63 beside smaller ones."""
    array = np.asarray(values)
    if described.dtype.kind in "iu" and array.dtype.kind in "fO":
        exact = np.array(values, dtype=object)
        if all(type(element) is int and 0 <= element < 1 << 64 for element in exact.flat):
            return exact.astype(np.uint64)
    return array


def rows_of(inputs: Mapping[str, Array]) -> int:
    """The batch dimension that all inputs share."""
    first, *others = inputs
    rows: int = inputs[first].shape[0]
    for name in others:
        if (count := inputs[name].shape[0]) != rows:
            raise BadInput(
                f"input {name!r} has {count} rows: wanted {rows} as in input {first!r}, given {count}; "
                "the first dimension of all inputs of a request must be the same",
                input_name=name,
                wanted=str(rows),
                given=str(count),
            )
    return rows


def _length(described: Described, wanted: str, given: int) -> BadInput:
    return described.bad(
        f"({described.datatype} {list(described.shape)}) has the wrong number of bytes",
        f"{wanted} bytes",
        f"{given} bytes",
        "make shape, datatype and data agree",
    )


_KINDS = {
    "b": "booleans",
    "i": "integers",
    "u": "integers",
    "f": "numbers with a fraction",
    "U": "strings",
    "S": "strings",
}


def _converted(described: Described, array: Array) -> Array:
    """Values of the right kind and in range, never rounded or wrapped silently."""
    if described.datatype == "BYTES":
        return _as_bytes(described, array)
    if array.size == 0:
        return array.astype(described.dtype)
    wanted, kind = described.dtype.kind, array.dtype.kind
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[wanted]
    if kind not in allowed:
        raise described.bad(
            "has data of the wrong kind",
            f"{described.datatype} values",
            _KINDS.get(kind, "mixed values or nulls"),
            "send values of this datatype or declare the right one",
        )
    if wanted in "iu":
        _check_range(described, array)
    with np.errstate(over="ignore"):
        converted = array.astype(described.dtype)
    if wanted == "f" and not np.isfinite(converted).all():
        raise described.bad(
            "has a number out of range", f"numbers that {described.datatype} can hold", "a larger one", "use FP64"
        )
    return converted


def _check_range(described: Described, array: Array) -> None:
    bounds = np.iinfo(described.dtype)
    low, high = int(array.min()), int(array.max())
    if low < bounds.min or high > bounds.max:
        raise described.bad(
            "has a number out of range",
            f"{bounds.min} to {bounds.max} for {described.datatype}",
            str(low if low < bounds.min else high),
            "use a wider datatype",
        )


def _as_bytes(described: Described, array: Array) -> Array:
    encoded = np.empty(array.size, dtype=np.object_)
    for index, element in enumerate(array.reshape(-1)):
        if not isinstance(element, str | bytes):
            raise described.bad(
                "has data of the wrong kind",
                "strings",
                type(element).__name__,
                "send strings, or raw bytes as binary data",
            )
        encoded[index] = element.encode() if isinstance(element, str) else element
    return encoded
