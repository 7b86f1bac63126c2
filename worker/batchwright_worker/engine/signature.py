"""A model's inputs: are a request's arrays right, which rows may share a batch, and what does a warm-up send?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from batchwright_worker.api.model import Padding
from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.oip.datatypes import name_of, numpy_of
from batchwright_worker.scheduler.queues import Bucket

WARM_UP_DIMENSION = 64
"""Stands for a variable dimension in warm-up rows: most networks take it (multiples of 32)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The signature of a loaded model: inputs and outputs per row; `padding` as in the manifest. No inputs: nothing
    is checked."""

    model: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    padding: Padding | None = None

    @property
    def fixed(self) -> bool:
        """Are all shapes known, so that every row can share a batch with every other?"""
        return bool(self.inputs) and all(size >= 0 for spec in self.inputs for size in spec.shape)

    def prepare(
        self, inputs: Mapping[str, Array], rows: int, wanted: Sequence[str]
    ) -> tuple[Mapping[str, Array], Bucket]:
        """The arrays, padded up to their bucket, and the bucket. Raises BadInput."""
        self._check_names(inputs, wanted)
        for spec in self.inputs:
            self._check_array(spec, inputs[spec.name], rows)
        if self.fixed:
            return inputs, ()
        if self.padding is not None:
            inputs = {name: self._padded(name, array, self.padding) for name, array in inputs.items()}
        return inputs, tuple(inputs[name].shape[1:] for name in sorted(inputs))

    def warm_up(self, rows: int) -> dict[str, Array]:
        """`rows` rows of zeros (of empty strings)."""
        return {spec.name: _zeros(spec, rows) for spec in self.inputs}

    def _check_names(self, inputs: Mapping[str, Array], wanted: Sequence[str]) -> None:
        known = {spec.name for spec in self.inputs}
        if known and (missing := sorted(known - inputs.keys())):
            raise BadInput(
                f"input '{missing[0]}' of model {self.model} is missing; it takes {sorted(known)}",
                input_name=missing[0],
                wanted=_describe(self._input(missing[0])),
                given="nothing",
            )
        if known and (strange := sorted(inputs.keys() - known)):
            raise BadInput(
                f"model {self.model} has no input '{strange[0]}'; it takes {sorted(known)}",
                input_name=strange[0],
                wanted=", ".join(sorted(known)),
                given=strange[0],
            )
        offered = {spec.name for spec in self.outputs}
        if offered and (unknown := sorted(set(wanted) - offered)):
            raise BadInput(
                f"model {self.model} has no output '{unknown[0]}'; it gives {sorted(offered)}",
                wanted=", ".join(sorted(offered)),
                given=unknown[0],
            )

    def _input(self, name: str) -> TensorSpec:
        return next(spec for spec in self.inputs if spec.name == name)

    def _check_array(self, spec: TensorSpec, array: Array, rows: int) -> None:
        datatype = name_of(array.dtype)
        shape = array.shape
        good = (
            datatype == spec.datatype
            and len(shape) == len(spec.shape) + 1
            and shape[0] == rows
            and all(want in (-1, have) for want, have in zip(spec.shape, shape[1:], strict=True))
        )
        if not good:
            given = f"{datatype} {list(shape)}"
            raise BadInput(
                f"input '{spec.name}' of model {self.model} must be {_describe(spec)} with {rows} rows; it is {given}",
                input_name=spec.name,
                wanted=_describe(spec),
                given=given,
            )

    def _padded(self, name: str, array: Array, padding: Padding) -> Array:
        """Only a dimension that varies is padded, and only in inputs that have it."""
        axis = padding.dimension + 1
        spec = next((spec for spec in self.inputs if spec.name == name), None)
        varies = spec is None or (padding.dimension < len(spec.shape) and spec.shape[padding.dimension] == -1)
        if axis >= array.ndim or not varies or array.dtype == np.object_:
            return array
        short = -array.shape[axis] % padding.multiple
        if not short:
            return array
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, short)
        return np.pad(array, widths, constant_values=array.dtype.type(float(padding.value)))


def _describe(spec: TensorSpec) -> str:
    return f"{spec.datatype} {[-1, *spec.shape]}"


def _zeros(spec: TensorSpec, rows: int) -> Array:
    shape = (rows, *(WARM_UP_DIMENSION if size < 0 else size for size in spec.shape))
    if spec.datatype == "BYTES":
        return np.full(shape, b"", dtype=np.object_)
    return np.zeros(shape, dtype=numpy_of(spec.datatype))
