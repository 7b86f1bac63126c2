"""A model's answer, held against what it declares: exactly the names, types and shapes, or WrongOutputs.

Changed without loss, and only this: byte order to the machine's; numbers to a wider type of the same kind (INT32 to
INT64, FP16 to FP32); lists of Python numbers, which have no type of their own, to the declared one of their kind;
text of any sort to BYTES. All else is refused: FP64 for FP32 would lose digits, a masked array hides values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec, WrongOutputs
from batchwright_worker.oip.datatypes import name_of, numpy_of, stays_finite

_KINDS: Final = {"b": "b", "i": "i", "u": "iu", "f": "f"}
"""Kind of a number -> kinds of types that a wider one of may hold it."""
_FROM_LISTS: Final = {"b": "b", "i": "iuf", "u": "iuf", "f": "f"}
"""Kind that numpy gives a list of Python numbers -> kinds of types that it may become."""


def conformed(outputs: Mapping[str, Any], specs: Sequence[TensorSpec], rows: int) -> dict[str, Array]:
    """The declared outputs of a call of `rows` rows, each an array of its type and shape. Raises WrongOutputs."""
    return {spec.name: _conformed(outputs, spec, rows) for spec in specs}


def named(outputs: Mapping[str, Any], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The same without a look at shapes, before it is known how they follow the rows. Raises WrongOutputs."""
    return {spec.name: _typed(_given(outputs, spec), spec) for spec in specs}


def _conformed(outputs: Mapping[str, Any], spec: TensorSpec, rows: int) -> Array:
    array = _typed(_given(outputs, spec), spec)
    shape = array.shape
    if spec.batched:
        good = len(shape) == len(spec.shape) + 1 and shape[0] == rows and _fits(spec.shape, shape[1:])
    else:
        good = len(shape) == len(spec.shape) and _fits(spec.shape, shape)
    if not good:
        wanted = [rows, *spec.shape] if spec.batched else list(spec.shape)
        raise _wrong(spec, str(wanted), f"{spec.datatype} {list(shape)}")
    return array


def _given(outputs: Mapping[str, Any], spec: TensorSpec) -> Any:
    if spec.name not in outputs:
        raise WrongOutputs(f"output {spec.name!r} is declared, and the model gave {sorted(map(str, outputs))}")
    return outputs[spec.name]


def _fits(wanted: Sequence[int], given: Sequence[int]) -> bool:
    return all(want in (-1, have) for want, have in zip(wanted, given, strict=True))


def _typed(value: Any, spec: TensorSpec) -> Array:
    dtype = numpy_of(spec.datatype)
    assert dtype is not None, f"{spec.datatype} was checked at load"
    if type(value) is np.ndarray and value.dtype == dtype and value.dtype.isnative and not dtype.hasobject:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise _wrong(spec, "plain values", "a masked array; fill it: y.filled(0)")
    try:
        array = np.asarray(value)
    except Exception as error:
        raise _wrong(spec, "an array", f"{_article(value)}, of which numpy makes none ({error})") from error
    if spec.datatype == "BYTES":
        return _texts(array, spec)
    return _numbers(array, spec, dtype, listed=isinstance(value, list | tuple | int | float))


def _numbers(array: Array, spec: TensorSpec, dtype: np.dtype[Any], *, listed: bool) -> Array:
    given, wanted = array.dtype, dtype
    if given.newbyteorder("=") == wanted:
        return array.astype(wanted, copy=False)
    if given.kind not in _KINDS or wanted.kind not in "biuf":
        raise _wrong(spec, spec.datatype, _named(given))
    if listed and wanted.kind in _FROM_LISTS[given.kind]:
        return _of_list(array, spec, wanted)
    if wanted.kind in _KINDS[given.kind] and np.can_cast(given, wanted, "safe"):
        return array.astype(wanted)
    raise _wrong(spec, spec.datatype, f"{_named(given)}; let it return .astype({wanted.name!r})")


def _of_list(array: Array, spec: TensorSpec, wanted: np.dtype[Any]) -> Array:
    """A list's numbers in the declared type: whole numbers exactly, others rounded to it, but not to infinity."""
    with np.errstate(over="ignore"):
        cast = array.astype(wanted)
    if wanted.kind in "iu" and not np.array_equal(cast, array):
        raise _wrong(spec, spec.datatype, "whole numbers that it cannot hold")
    if wanted.kind == "f" and not stays_finite(cast, array):
        raise _wrong(spec, spec.datatype, "numbers beyond its largest")
    return cast


def _texts(array: Array, spec: TensorSpec) -> Array:
    if array.dtype.kind not in "SUO":
        raise _wrong(spec, "BYTES (text or bytes)", _named(array.dtype))
    flat = np.empty(array.size, dtype=np.object_)
    for index, element in enumerate(array.reshape(-1).tolist()):
        flat[index] = element if type(element) is bytes else _bytes(element, spec)
    return flat.reshape(array.shape)


def _bytes(element: Any, spec: TensorSpec) -> bytes:
    if isinstance(element, str):
        try:
            return element.encode()
        except UnicodeEncodeError as error:
            raise _wrong(spec, "BYTES", f"text that UTF-8 cannot write ({error})") from error
    if isinstance(element, bytes | bytearray | memoryview):
        return bytes(element)
    raise _wrong(spec, "BYTES (text or bytes)", f"an element that is {_article(element)}")


def _named(dtype: np.dtype[Any]) -> str:
    if dtype.hasobject:
        return "an object array (elements of no one type)"
    if dtype.kind in "SU":
        return "text"
    try:
        return name_of(dtype)
    except ValueError:
        return f"numpy's {dtype}"


def _article(value: Any) -> str:
    return f"a {type(value).__name__}"


def _wrong(spec: TensorSpec, wanted: str, given: str) -> WrongOutputs:
    return WrongOutputs(f"output {spec.name!r} is not as declared: wanted {wanted}, given {given}")
