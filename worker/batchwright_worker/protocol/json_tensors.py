"""Input tensors of a JSON request: their data as JSON values, or as raw bytes behind the JSON part."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from batchwright_worker.inference.requests import Array
from batchwright_worker.oip.datatypes import RAW_ONLY
from batchwright_worker.protocol.binary import BinarySection
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.nonfinite import has_tokens, loads
from batchwright_worker.protocol.parameters import refuse_unsupported
from batchwright_worker.protocol.shared_memory import Place, Regions, place_of
from batchwright_worker.protocol.tensors import DeclaredInput, check_range, declared_input, from_bytes

_KINDS: Final = {
    "b": "booleans",
    "i": "integers",
    "u": "integers",
    "f": "numbers with a fraction",
    "U": "strings",
    "S": "strings",
}
"""Kinds of numpy types as messages name them."""


class InputTensor(msgspec.Struct):
    """One input of a request; `data` (empty: none) is left undecoded until datatype and shape have been checked."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()


def input_array(tensor: InputTensor, section: BinarySection, limits: Limits, regions: Regions | None = None) -> Array:
    """The array of one input, checked before anything of its size is allocated. Raises BadInput."""
    declared = declared_input(tensor.name, tensor.datatype, tensor.shape, limits)
    size = tensor.parameters.get("binary_data_size")
    raw = memoryview(tensor.data)
    if regions is not None and (place := place_of_input(tensor)) is not None:
        if size is not None or raw:
            raise declared.bad("is in shared memory and in the body", "one of them", "both", "leave one out")
        return from_bytes(declared, regions.read(place))
    refuse_unsupported(tensor.parameters, f"input {tensor.name!r}")
    if size is not None and raw:
        raise declared.bad("has both data and binary_data_size", "one of them", "both", "leave one out")
    if size is not None:
        return from_bytes(declared, section.take(declared.name, size))
    if not raw:
        raise declared.bad("has no data", "data or binary_data_size", "neither", "add one of them")
    if declared.elements > len(raw):
        # Each element takes a byte of JSON at least: no array is made for a shape that the data cannot fill.
        raise declared.bad(
            "has data that does not fill its shape",
            f"{declared.elements} elements for shape {list(declared.shape)}",
            f"{len(raw)} bytes of JSON",
            "make data and shape agree",
        )
    return _from_values(declared, _values(declared, raw))


def place_of_input(tensor: InputTensor) -> Place | None:
    """Where it lies in shared memory, if it does. Raises BadInput."""
    if not tensor.parameters:
        return None
    where = f"input {tensor.name!r}"
    refuse_unsupported(tensor.parameters, where, regions=True)
    return place_of(tensor.parameters, where)


def _values(declared: DeclaredInput, raw: memoryview) -> object:
    try:
        values = _decoded(raw)
    except (ValueError, RecursionError) as error:
        raise declared.bad("has unreadable data", "a list", str(error), "send a flat list") from error
    if not isinstance(values, list):
        raise declared.bad("has data that is no list", "a list", type(values).__name__, "send a flat list")
    return values


def _decoded(raw: memoryview) -> object:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        if has_tokens(raw):
            return loads(raw)
        raise


def _from_values(declared: DeclaredInput, values: object) -> Array:
    """The tensor from JSON values: flat, or nested as the shape says."""
    if declared.datatype in RAW_ONLY:
        raise declared.bad(
            "cannot travel as JSON numbers",
            "raw bytes",
            f"{declared.datatype} data",
            "set binary_data_size and append the bytes",
        )
    try:
        array = np.array(values, dtype=object) if declared.datatype == "BYTES" else _plain(declared, values)
    except (ValueError, OverflowError, RecursionError) as error:
        raise declared.bad(
            "has ragged or over-long data",
            f"shape {list(declared.shape)}",
            "lists of unequal length or depth",
            "send a flat list, or one nested as the shape says",
        ) from error
    if array.size != declared.elements or (array.ndim > 1 and array.shape != declared.shape):
        raise declared.bad(
            "has data that does not fill its shape",
            f"{declared.elements} elements for shape {list(declared.shape)}",
            f"{array.size} elements in shape {list(array.shape)}",
            "make data and shape agree",
        )
    return _converted(declared, array).reshape(declared.shape)


def _plain(declared: DeclaredInput, values: object) -> Array:
    """As numpy reads the values, except that it would make floats of integers beyond 2**63 next to smaller ones."""
    array = np.asarray(values)
    if declared.dtype.kind in "iu" and array.dtype.kind in "fO":
        exact = np.array(values, dtype=object)
        if all(type(element) is int and 0 <= element < 1 << 64 for element in exact.flat):
            return exact.astype(np.uint64)
    return array


def _converted(declared: DeclaredInput, array: Array) -> Array:
    """Values of the right kind and in range, never rounded or wrapped silently."""
    if declared.datatype == "BYTES":
        return _as_bytes(declared, array)
    if array.size == 0:
        return array.astype(declared.dtype)
    wanted, kind = declared.dtype.kind, array.dtype.kind
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[wanted]
    if kind not in allowed:
        raise declared.bad(
            "has data of the wrong kind",
            f"{declared.datatype} values",
            _KINDS.get(kind, "mixed values or nulls"),
            "send values of this datatype or declare the right one",
        )
    if wanted in "iu":
        check_range(declared, array)
    with np.errstate(over="ignore"):
        converted = array.astype(declared.dtype)
    if wanted == "f" and not _as_finite(converted, array):
        raise declared.bad(
            "has a number out of range", f"numbers that {declared.datatype} can hold", "a larger one", "use FP64"
        )
    return converted


def _as_finite(converted: Array, values: Array) -> bool:
    """Has no number become an infinity?"""
    finite = np.isfinite(converted)
    return bool(finite.all()) or bool((finite == np.isfinite(values)).all())


def _as_bytes(declared: DeclaredInput, array: Array) -> Array:
    encoded = np.empty(array.size, dtype=np.object_)
    for index, element in enumerate(array.reshape(-1)):
        if not isinstance(element, str | bytes):
            raise declared.bad(
                "has data of the wrong kind",
                "strings",
                type(element).__name__,
                "send strings, or raw bytes as binary data",
            )
        encoded[index] = element.encode() if isinstance(element, str) else element
    return encoded
