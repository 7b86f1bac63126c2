"""What a model takes, from its metadata, and the rows that tasks make for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.oip.datatypes import name_of, numpy_of, stays_finite
from batchwright_worker.oip.encoded_bytes import check_elements
from batchwright_worker.oip.http_tensors import raw_of
from batchwright_worker.runner.cpu.functions import RowType
from batchwright_worker.runner.errors import TaskFailed

Row = tuple[tuple[str, NDArray[Any]], ...]
"""One row: (input, array) in the metadata's order, arrays without a batch dimension."""
Group = tuple[tuple[str, str, tuple[int, ...], bytes], ...]
"""Rows with equal groups may share a request: (input, type, shape, value where a request has one for all its rows)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """One input or output per row (or whole, where it has no batch dimension); -1 is a variable dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    batched: bool = True

    def __str__(self) -> str:
        return f"{self.name}: {self.datatype} {list(self.shape)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSignature:
    """One model of one deployment. No inputs: the model does not tell them, any row will do. `whole`: it has no batch
    dimension at all, so that each row is a request of its own."""

    deployment: str
    model: str
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...] = ()
    whole: bool = False

    @property
    def title(self) -> str:
        """How messages name it."""
        return f"model {self.deployment}/{self.model}"

    def is_batched(self, tensor: str) -> bool:
        """Has this input or output a batch dimension?"""
        if self.whole:
            return False
        return next((each.batched for each in (*self.inputs, *self.outputs) if each.name == tensor), True)


def rows_of(value: Any, signature: InputSignature) -> tuple[list[Row], bool]:
    """The rows in a task's result, and whether it was a list. Raises TaskFailed naming input, wanted and given."""
    if isinstance(value, list | tuple):
        return [_row(one, signature, f"row {index}: ") for index, one in enumerate(value)], True
    return [_row(value, signature, "")], False


def group_of(row: Row, signature: InputSignature) -> Group:
    """Rows with equal groups may share a request: the same inputs with the same types and shapes, and the same values
    where a request has one value for all of its rows."""
    return tuple(
        (
            name,
            array.dtype.str,
            array.shape,
            b"" if signature.whole or signature.is_batched(name) else bytes(raw_of(name_of(array.dtype), array)),
        )
        for name, array in row
    )


def _row(value: Any, signature: InputSignature, place: str) -> Row:
    named = _named(value, signature, place)
    title = f"{place}{signature.title}"
    if not signature.inputs:
        return tuple((name, np.asarray(array)) for name, array in sorted(named.items()))
    arrays = []
    for wanted in signature.inputs:
        if wanted.name not in named:
            given = sorted(map(str, named)) or "nothing"
            raise TaskFailed(f"{title} wants input {wanted.name!r}, the row has {given}")
        arrays.append((wanted.name, _array(named[wanted.name], wanted, title)))
    return tuple(arrays)


def _named(value: Any, signature: InputSignature, place: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if len(signature.inputs) == 1 and isinstance(value, np.ndarray | np.generic):
        return {signature.inputs[0].name: value}
    wanted = ", ".join(map(str, signature.inputs))
    raise TaskFailed(f"{place}{signature.title} wants a row {{{wanted}}}, it was given {type(value).__name__}")


def _array(value: Any, wanted: TensorType, title: str) -> NDArray[Any]:
    array = value if isinstance(value, np.ndarray | np.generic) else _from_json(value, wanted, title)
    if isinstance(array, np.ma.MaskedArray):
        raise TaskFailed(f"{title}, input {wanted.name!r}: a masked array hides values; fill it: x.filled(0)")
    array = np.asarray(array)
    try:
        given = name_of(array.dtype)
        if given == "BYTES":
            check_elements(array)  # or a wrong one would be the fault of all rows of its request
    except ValueError as error:
        raise TaskFailed(f"{title}, input {wanted.name!r}: {error}") from error
    if given != wanted.datatype:
        raise TaskFailed(
            f"{title}, input {wanted.name!r}: wanted {wanted.datatype}, given {given}; "
            f"convert with .astype({numpy_of(wanted.datatype)})"
        )
    if not fits(array.shape, wanted.shape):
        raise TaskFailed(
            f"{title}, input {wanted.name!r}: wanted shape {list(wanted.shape)} (-1: any), given {list(array.shape)}"
        )
    return array


def _from_json(value: Any, wanted: TensorType, title: str) -> NDArray[Any]:
    """Numbers, text and lists of JSON have no type of their own: they take the input's where nothing is lost in kind
    (whole numbers to any number type that holds them, others to floats, text to BYTES)."""
    try:
        plain = _texts(value) if wanted.datatype == "BYTES" else np.asarray(value)
    except ValueError as error:  # lists of unequal lengths
        raise TaskFailed(f"{title}, input {wanted.name!r}: {error}") from error
    target = numpy_of(wanted.datatype)
    if target is None or not plain.size or plain.dtype.kind not in "iuf":
        return plain.astype(target) if target is not None and not plain.size else plain
    if plain.dtype.kind == "f" and target.kind in "iub":
        return plain
    with np.errstate(over="ignore"):
        cast = plain.astype(target)
    whole = plain.dtype.kind in "iu" and target.kind in "iub"
    if not (np.array_equal(cast, plain) if whole else stays_finite(cast, plain)):
        raise TaskFailed(f"{title}, input {wanted.name!r}: {value!r} does not fit {wanted.datatype}"[:300])
    return cast


def _texts(value: Any) -> NDArray[Any]:
    """Text and bytes as they are (numpy's own types for them lose zeros at the end); anything else as numpy has it."""
    texts = np.array(value, dtype=object)
    return texts if all(isinstance(each, str | bytes) for each in texts.flat) else np.asarray(value)


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Is it this shape, in which -1 is any size?"""
    return len(shape) == len(wanted) and all(w in (-1, s) for s, w in zip(shape, wanted, strict=True))


def mismatch(declared: RowType, signature: InputSignature) -> str | None:
    """Why a declared row (`functions.produces`) cannot be a row of this model; None if it can."""
    for wanted in signature.inputs:
        if wanted.name not in declared:
            return f"{signature.title} wants input {wanted.name!r}, the function declares {sorted(declared)}"
        datatype, shape = declared[wanted.name]
        if datatype != wanted.datatype:
            return f"{signature.title}, input {wanted.name!r}: wanted {wanted.datatype}, declared {datatype}"
        if not _may_fit(tuple(shape), wanted.shape):
            return f"{signature.title}, input {wanted.name!r}: wanted {list(wanted.shape)}, declared {list(shape)}"
    return None


def _may_fit(declared: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    pairs = zip(declared, wanted, strict=False)
    return len(declared) == len(wanted) and all(d == -1 or w in (-1, d) for d, w in pairs)
