"""Input tensors of requests, over HTTP or gRPC: checked and capped before anything of their size is allocated. Pure.

Both front ends declare an input as name, datatype and shape, and convert its data to an array that fits exactly, or
raise a BadInput that names the input, what is wanted, what was given and what to do. Bytes are not copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import Array
from batchwright_worker.oip.datatypes import DATATYPES, BadBytesError, numpy_of
from batchwright_worker.oip.encoded_bytes import as_array, checked
from batchwright_worker.oip.json_values import BadValuesError
from batchwright_worker.protocol.limits import Limits

_ANY = np.dtype(np.uint8)
"""Stands for an unknown datatype in the `DeclaredInput` that its error is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredInput:
    """An input as a request declares it, checked by `declared_input`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    elements: int

    def bad_values(self, error: BadValuesError) -> BadInput:
        """The same for what is wrong with its values."""
        return self.bad(error.problem, error.wanted, error.given, error.remedy)

    def bad(self, problem: str, wanted: str, given: str, remedy: str) -> BadInput:
        """The error that names this input."""
        return BadInput(
            f"input {self.name!r} {problem}: wanted {wanted}, given {given}; {remedy}",
            input_name=self.name,
            wanted=wanted,
            given=given,
        )


def declared_input(name: str, datatype: str, shape: Sequence[int], limits: Limits) -> DeclaredInput:
    """Raises BadInput for an unknown datatype or a shape beyond the limits."""
    dtype, rank = numpy_of(datatype), len(shape)
    good = (
        dtype is not None and rank <= limits.rank and min(shape, default=0) >= 0 and math.prod(shape) <= limits.elements
    )
    declared = DeclaredInput(
        name=name,
        datatype=datatype,
        shape=tuple(shape) if rank <= limits.rank else (),
        dtype=_ANY if dtype is None else dtype,
        elements=math.prod(shape) if good else 0,
    )
    if not good:
        raise _beyond(declared, rank, limits)
    return declared


def _beyond(declared: DeclaredInput, rank: int, limits: Limits) -> BadInput:
    """What is wrong with a datatype or shape that `declared_input` does not take."""
    bad, shape = declared.bad, declared.shape
    if numpy_of(declared.datatype) is None:
        wanted = " | ".join(DATATYPES)
        return bad("has an unknown datatype", wanted, repr(declared.datatype), "use one of these names")
    if rank > limits.rank:
        return bad("has too many dimensions", f"at most {limits.rank}", str(rank), "reshape it to fewer dimensions")
    if min(shape) < 0:
        return bad("has a negative dimension", "sizes of at least 0", str(list(shape)), "write the real size")
    return bad("is too large", f"at most {limits.elements} elements", str(list(shape)), "send fewer rows at a time")


def from_bytes(declared: DeclaredInput, data: memoryview) -> Array:
    """The tensor as a view on its little-endian, row-major bytes; BYTES elements carry 4-byte lengths."""
    if declared.datatype == "BYTES":
        if declared.elements * 4 > len(data):
            raise _length(declared, f"at least {declared.elements * 4}", len(data))
        try:
            return as_array(checked(data, declared.elements).reshape(declared.shape))
        except BadBytesError as error:
            raise declared.bad(
                "has broken lengths", "4 bytes little-endian length before each element", str(error), "encode it again"
            ) from error
    size = declared.elements * declared.dtype.itemsize
    if size != len(data):
        raise _length(declared, str(size), len(data))
    if declared.datatype == "BOOL" and size and (largest := int(np.frombuffer(data, np.uint8).max())) > 1:
        # A byte that is neither is true to one operator and another true to the next.
        raise declared.bad("has bytes that are no booleans", "0 or 1 each", str(largest), "write 1 for true")
    return np.frombuffer(data, dtype=declared.dtype).reshape(declared.shape)


def check_counts(inputs: int, outputs: int, limits: Limits) -> None:
    """Raises BadInput for too many entries; whether some are missing the model's signature says."""
    for what, count in (("inputs", inputs), ("outputs", outputs)):
        if count > limits.tensors:
            raise BadInput(
                f"{what!r} has {count} entries: wanted at most {limits.tensors}; GET /v2/models/NAME says which there "
                "are",
                wanted=f"at most {limits.tensors}",
                given=str(count),
            )


def add_input(inputs: dict[str, Array], name: str, array: Array) -> None:
    """Raises BadInput for a name that was there already."""
    if name in inputs:
        raise BadInput(f"input {name!r} is there twice: wanted once; leave one of them out", input_name=name)
    inputs[name] = array


def rows_of(inputs: Mapping[str, Array]) -> int:
    """The first dimension of the first input that has one: the rows of most requests. Which inputs have rows the engine
    knows, and sets it right."""
    return next((array.shape[0] for array in inputs.values() if array.ndim), 1)


def _length(declared: DeclaredInput, wanted: str, given: int) -> BadInput:
    return declared.bad(
        f"({declared.datatype} {list(declared.shape)}) has the wrong number of bytes",
        f"{wanted} bytes",
        f"{given} bytes",
        "make shape, datatype and data agree",
    )
