"""Input tensors of a JSON request: their data as JSON values, or as raw bytes behind the JSON part."""

from __future__ import annotations

from typing import Any

import msgspec

from batchwright_worker.inference.requests import Array
from batchwright_worker.oip.datatypes import RAW_ONLY
from batchwright_worker.oip.json_values import BadValuesError, array_of_values
from batchwright_worker.oip.nonfinite import has_tokens, loads
from batchwright_worker.protocol.binary import BinarySection
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.parameters import refuse_unsupported
from batchwright_worker.protocol.shared_memory import Place, Regions, place_of
from batchwright_worker.protocol.tensors import DeclaredInput, declared_input, from_bytes


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
    # Looked for in the text, which is quicker than in the values, and by letters that no number has: one byte is found
    # twenty times as fast as a word.
    text = bytes(raw)
    booleans = b"u" in text or b"s" in text
    return _from_values(declared, _values(declared, raw), booleans=booleans)


def place_of_input(tensor: InputTensor) -> Place | None:
    """Where it lies in shared memory, if it does. Raises BadInput."""
    if not tensor.parameters:
        return None
    where = f"input {tensor.name!r}"
    refuse_unsupported(tensor.parameters, where, regions=True)
    return place_of(tensor.parameters, where)


def _values(declared: DeclaredInput, raw: memoryview) -> list[Any]:
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


def _from_values(declared: DeclaredInput, values: list[Any], *, booleans: bool) -> Array:
    """The tensor from JSON values: flat, or nested as the shape says."""
    if declared.datatype in RAW_ONLY:
        raise declared.bad(
            "cannot travel as JSON numbers",
            "raw bytes",
            f"{declared.datatype} data",
            "set binary_data_size and append the bytes",
        )
    try:
        return array_of_values(values, declared.datatype, declared.dtype, declared.shape, booleans=booleans)
    except BadValuesError as bad:
        raise declared.bad_values(bad) from bad
