"""Tensors whose elements are JSON values, in requests and in answers: exact, or refused. Pure.

numpy would make 1 of `true` and of `1.5`, NaN of `null`, numbers of strings and infinities of large numbers, and says
of whole numbers beyond 64 bits that they are objects.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.oip.datatypes import stays_finite

_KINDS: Final = {
    "b": "booleans",
    "i": "integers",
    "u": "integers",
    "f": "numbers with a fraction",
    "U": "strings",
    "S": "strings",
}
"""Kinds of numpy types as messages name them."""
_ALLOWED: Final = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
"""Kind of a datatype -> kinds of values that it takes."""


class BadValuesError(ValueError):
    """`values have this problem: wanted .., given ..; remedy`."""

    def __init__(self, problem: str, wanted: str, given: str, remedy: str) -> None:
        super().__init__(f"{problem}: wanted {wanted}, given {given}")
        self.problem = problem
        self.wanted = wanted
        self.given = given
        self.remedy = remedy


def array_of_values(
    values: list[Any], datatype: str, dtype: np.dtype[Any], shape: tuple[int, ...], *, booleans: bool = True
) -> NDArray[Any]:
    """The tensor of a list, flat or nested as the shape says; of BYTES with elements of `bytes`. Not for datatypes that
    JSON cannot carry. `booleans`: may there be any? Raises BadValuesError."""
    try:
        array = np.array(values, dtype=object) if datatype == "BYTES" else np.asarray(values)
    except (ValueError, OverflowError, RecursionError) as error:
        raise BadValuesError(
            "has ragged or over-long data",
            f"shape {list(shape)}",
            "lists of unequal length or depth",
            "send a flat list, or one nested as the shape says",
        ) from error
    _check_shape(array, shape)
    if datatype == "BYTES":
        return _texts(array).reshape(shape)
    if array.size and booleans and dtype.kind != "b" and array.dtype.kind in "iuf" and _holds_booleans(values):
        raise _wrong_kind(datatype, "booleans among the numbers")
    return _converted(values, array, datatype, dtype).reshape(shape)


def check_range(array: NDArray[Any], datatype: str, dtype: np.dtype[Any]) -> None:
    """Raises BadValuesError unless the datatype, one of integers, can hold every element; there must be one."""
    bounds = np.iinfo(dtype)
    low, high = int(array.min()), int(array.max())
    if low < bounds.min or high > bounds.max:
        raise BadValuesError(
            "has a number out of range",
            f"{bounds.min} to {bounds.max} for {datatype}",
            _short(low if low < bounds.min else high),
            "use a wider datatype",
        )


def _check_shape(array: NDArray[Any], shape: tuple[int, ...]) -> None:
    elements = 1
    for size in shape:
        elements *= size
    if array.size != elements or (array.ndim > 1 and array.shape != shape):
        raise BadValuesError(
            "has data that does not fill its shape",
            f"{elements} elements for shape {list(shape)}",
            f"{array.size} elements in shape {list(array.shape)}",
            "make data and shape agree",
        )


def _converted(values: list[Any], array: NDArray[Any], datatype: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values of the right kind and in range, never rounded to a whole number or wrapped."""
    if array.size == 0:
        return array.astype(dtype)
    if array.dtype.kind not in _ALLOWED[dtype.kind]:
        array = _beyond_64_bits(values, array, datatype, dtype)
    if dtype.kind in "iu":
        check_range(array, datatype, dtype)
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if dtype.kind == "f" and not stays_finite(converted, array):
        raise _too_large(datatype)
    return converted


def _beyond_64_bits(values: list[Any], array: NDArray[Any], datatype: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Whole numbers that numpy has no type for, or none together: it made objects or floats of them."""
    kinds = set(map(type, np.array(values, dtype=object).flat)) if array.dtype.kind in "fO" else set()
    if dtype.kind in "iu" and kinds == {int}:
        exact = np.array(values, dtype=object)
        check_range(exact, datatype, dtype)
        return exact.astype(dtype)
    if dtype.kind == "f" and kinds and kinds <= {int, float}:
        try:
            return np.array(values, dtype=object).astype(np.float64)
        except OverflowError as error:
            raise _too_large(datatype) from error
    raise _wrong_kind(datatype, _KINDS.get(array.dtype.kind, "mixed values or nulls"))


def _holds_booleans(values: list[Any]) -> bool:
    kinds = set(map(type, values))
    return bool in kinds or (list in kinds and any(_holds_booleans(each) for each in values))


def _texts(array: NDArray[Any]) -> NDArray[Any]:
    encoded = np.empty(array.size, dtype=np.object_)
    for index, element in enumerate(array.reshape(-1)):
        if not isinstance(element, str):
            raise BadValuesError(
                "has data of the wrong kind",
                "strings",
                type(element).__name__,
                "send strings, or raw bytes as binary data",
            )
        encoded[index] = element.encode()
    return encoded


def _wrong_kind(datatype: str, given: str) -> BadValuesError:
    return BadValuesError(
        "has data of the wrong kind",
        f"{datatype} values",
        given,
        "send values of this datatype or declare the right one",
    )


def _too_large(datatype: str) -> BadValuesError:
    return BadValuesError(
        "has a number out of range",
        f"numbers that {datatype} can hold",
        "a larger one",
        "scale it" if datatype == "FP64" else "use FP64",
    )


def _short(number: int) -> str:
    text = str(number)
    return text if len(text) <= 40 else f"{text[:20]}.. of {len(text)} digits"
