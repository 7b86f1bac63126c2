"""Rows of made-up content, or of the content that the manifest declares, to try a model with.

Row n of a sample is always the same, whatever rows are beside it, and differs from the other rows; tensors that are not
batched are the same in all. Several kinds, because no one suits every model: an image wants numbers in [0, 1], a
divisor no zero, a table small whole numbers; and an influence of one row on another may show with large numbers only,
or a detector find nothing in negative ones.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import BatchPlan, Sample, TensorSpec, WarmUpTensor
from batchwright_worker.oip.datatypes import numpy_of

DECLARED: Final = "declared"
"""The content of the manifest's `warmup.inputs`."""
KINDS: Final = ("unit", "negative", "positive", "large")
SIZES: Final = (64, 224, 16, 1, 512, 256, 128, 32, 8, 4, 3, 2)
"""Sizes of variable dimensions, in the order in which they are tried."""
_SETTINGS: Final = {"unit": 1, "negative": 0, "positive": 2, "large": -1}
"""Whole numbers of settings: an axis, a number of results, a mode. Each is tried, because one axis may keep the rows
apart and another one add them up."""
ANY: Final = Sample(kind=KINDS[0], size=SIZES[0])
"""For models that take anything."""
MOST_ELEMENTS: Final = 1 << 26
"""Of one row of one input: beyond that nothing is made up."""
_WORDS: Final = (b"straight", b"a", b"on", b"until", b"morning", b"0", b"second", b"star", b"to", b"the right")


class SampleError(Exception):
    """A sample cannot be made; the message says why."""


class Samples:
    """The samples for one reading of a model's inputs."""

    def __init__(self, inputs: Sequence[TensorSpec], declared: Sequence[WarmUpTensor] = ()) -> None:
        self._inputs = inputs
        self._declared = {given.name: _parsed(given, inputs) for given in declared}
        if self._declared and (missing := [spec.name for spec in inputs if spec.name not in self._declared]):
            raise SampleError(f"warmup.inputs has no input {missing[0]!r}; the model takes all of its inputs")

    def choices(self, first_size: int = 0) -> list[Sample]:
        """What to try, the likeliest first; `first_size` of variable dimensions goes before all others."""
        if self._declared:
            return [Sample(kind=DECLARED, size=0)]
        varies = any(size < 0 for spec in self._inputs for size in spec.shape)
        sizes = dict.fromkeys((first_size, *SIZES) if first_size else SIZES) if varies else (1,)
        return [Sample(kind=kind, size=size) for size in sizes for kind in KINDS]

    def rows(self, sample: Sample, numbers: Sequence[int]) -> dict[str, Array]:
        """The rows of these numbers, in this order. Raises SampleError."""
        settings = any(spec.batched for spec in self._inputs)
        return {
            spec.name: np.stack([self._row(spec, sample, number) for number in numbers])
            if spec.batched
            else self._row(spec, sample, 0, setting=settings)
            for spec in self._inputs
        }

    def _row(self, spec: TensorSpec, sample: Sample, number: int, *, setting: bool = False) -> Array:
        """`setting`: the input is one for all rows beside it."""
        if sample.kind == DECLARED:
            return self._declared_row(spec, number)
        shape = tuple(sample.size if size < 0 else size for size in spec.shape)
        if math.prod(shape) > MOST_ELEMENTS:
            raise SampleError(f"a row of input {spec.name!r} has {math.prod(shape)} elements, too many to make up")
        if setting and spec.datatype.startswith(("BOOL", "INT", "UINT")):
            return np.full(shape, _SETTINGS[sample.kind], np.int64).astype(numpy_of(spec.datatype))
        seed = zlib.crc32(f"{spec.name} {sample.kind}".encode())
        return _made_up(spec, sample.kind, shape, np.random.default_rng([seed, number]))

    def _declared_row(self, spec: TensorSpec, number: int) -> Array:
        """Rows beyond those that were declared are rolled copies of them: other rows of the same elements."""
        array = self._declared[spec.name]
        if not spec.batched:
            return array
        row: Array = np.asarray(array[number % len(array)])
        turns = number // len(array)
        rolled: Array = np.roll(row.reshape(-1), turns).reshape(row.shape)
        return rolled


def warm_up_rows(plan: BatchPlan, declared: Sequence[WarmUpTensor], rows: int) -> dict[str, Array]:
    """So many rows of the plan's sample; of `ANY` where it has none. Raises SampleError."""
    return Samples(plan.inputs, declared).rows(plan.sample or ANY, range(rows))


def _made_up(spec: TensorSpec, kind: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    dtype = numpy_of(spec.datatype)
    assert dtype is not None, f"{spec.datatype} was checked at load"
    if spec.datatype == "BYTES":
        return _texts(kind, shape, random)
    if spec.datatype == "BOOL":
        return np.asarray(random.integers(0, 2, shape)).astype(dtype)
    numbers: Array
    if spec.datatype.startswith(("INT", "UINT")):
        # Never more than 2: a larger index into a small table is a fault that a GPU does not get over.
        low, high = {"unit": (0, 1), "negative": (0, 0), "positive": (1, 2), "large": (1, 1)}[kind]
        numbers = random.integers(low, high, shape, endpoint=True)
    elif kind == "large":
        numbers = random.uniform(1000, 2000, shape) * random.choice([-1, 1], shape)
    else:
        numbers = random.uniform(0, 1, shape) + {"unit": 0, "negative": -1, "positive": 1}[kind]
    return np.asarray(numbers).astype(dtype)


def _texts(kind: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    texts = np.empty(shape, dtype=np.object_)
    for index in np.ndindex(*shape):
        choice = int(random.integers(10))
        texts[index] = _WORDS[choice] if kind == "large" else b"%d" % choice
    return texts


def _parsed(given: WarmUpTensor, inputs: Sequence[TensorSpec]) -> Array:
    spec = next((spec for spec in inputs if spec.name == given.name), None)
    if spec is None:
        raise SampleError(f"warmup.inputs names {given.name!r}; the model's inputs are {[one.name for one in inputs]}")
    fits = len(spec.full_shape) == len(given.shape) and all(
        want in (-1, have) for want, have in zip(spec.full_shape, given.shape, strict=True)
    )
    if not fits or (spec.batched and given.shape[0] == 0):
        raise SampleError(
            f"warmup.inputs gives {given.name!r} the shape {list(given.shape)}; the model takes "
            f"{list(spec.full_shape)} (-1: any size)"
        )
    count = math.prod(given.shape)
    if len(given.data) not in (1, count):
        raise SampleError(f"warmup.inputs gives {given.name!r} {len(given.data)} elements; write {count}, or one")
    try:
        elements = [_element(text, spec.datatype) for text in given.data]
        flat = np.empty(count, numpy_of(spec.datatype))
        flat[:] = elements if len(elements) == count else elements[0]
    except (ValueError, OverflowError) as error:
        raise SampleError(f"warmup.inputs: {given.name!r} is no {spec.datatype}: {error}") from error
    return flat.reshape(given.shape)


def _element(text: str, datatype: str) -> Any:
    if datatype == "BYTES":
        return text.encode()
    if datatype == "BOOL":
        if text not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text == "true"
    return int(text) if "INT" in datatype else float(text)
