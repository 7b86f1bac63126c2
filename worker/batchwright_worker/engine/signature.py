"""A model's inputs: are a request's arrays right, how many rows are they, and which rows may share a batch?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import msgspec
import numpy as np

from batchwright_worker.api.model import Padding
from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.oip.datatypes import encode_bytes, name_of
from batchwright_worker.scheduler.queues import Bucket, SettingsBucket

MOST_ROWS: Final = 65_536
"""Of one request: each is an entry in books of the scheduler's."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request's arrays as the model takes them, the rows that it counts as, and the bucket of these."""

    inputs: Mapping[str, Array]
    rows: int
    bucket: Bucket


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The signature of a loaded model; `padding` as in the manifest; `whole`: requests have no rows, each is a batch of
    its own. No inputs: only that all have as many rows is checked."""

    model: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    padding: Padding | None = None
    whole: bool = False

    @cached_property
    def fixed(self) -> bool:
        """Are all shapes known, so that every row can share a batch with every other?"""
        return bool(self.inputs) and all(size >= 0 for spec in self.inputs for size in spec.shape)

    @cached_property
    def unbatched_inputs(self) -> frozenset[str]:
        return frozenset(spec.name for spec in self.inputs if not spec.batched)

    @cached_property
    def unbatched_outputs(self) -> frozenset[str]:
        return frozenset(spec.name for spec in self.outputs if not spec.batched)

    @cached_property
    def goes_by_values(self) -> bool:
        """Does the bucket of a request depend on more than the shapes of its arrays?"""
        return bool(self.unbatched_inputs) and not self.whole

    def prepare(self, inputs: Mapping[str, Array], wanted: Sequence[str]) -> Prepared:
        """Raises BadInput."""
        self._check_names(inputs, wanted)
        rows = 1 if self.whole else self._rows(inputs)
        for spec in self.inputs:
            self._check_array(spec, inputs[spec.name], rows)
        if self.padding is not None and not self.fixed and not self.whole:
            inputs = {name: self._padded(name, array, self.padding) for name, array in inputs.items()}
        return Prepared(inputs=inputs, rows=rows, bucket=self._bucket(inputs))

    def _bucket(self, inputs: Mapping[str, Array]) -> Bucket:
        whole = self.unbatched_inputs
        shapes = () if self.fixed else tuple(inputs[name].shape[0 if name in whole else 1 :] for name in sorted(inputs))
        if not self.goes_by_values:
            return shapes
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(whole):
            array = inputs[name]
            digest.update(repr((name, array.shape)).encode())
            digest.update(encode_bytes(array) if array.dtype == object else np.ascontiguousarray(array).tobytes())
        return SettingsBucket(shapes, digest.hexdigest())

    def _rows(self, inputs: Mapping[str, Array]) -> int:
        """The batch dimension that all batched inputs share."""
        batched = [name for name in inputs if name not in self.unbatched_inputs]
        for name in batched:
            if not inputs[name].ndim:
                raise self._bad(name, inputs[name], "has no dimensions, of which the first is the batch")
        if not batched:
            raise BadInput(
                f"the request has no input with rows: model {self.model} takes one at least",
                wanted="an input with rows",
                given="none",
            )
        first, *others = batched
        rows: int = inputs[first].shape[0]
        for name in others:
            if (count := inputs[name].shape[0]) != rows:
                raise BadInput(
                    f"input {name!r} has {count} rows: wanted {rows} as in input {first!r}, given {count}; the first "
                    f"dimension of all {'batched ' if self.unbatched_inputs else ''}inputs of a request must be the "
                    "same",
                    input_name=name,
                    wanted=str(rows),
                    given=str(count),
                )
        if not 1 <= rows <= MOST_ROWS:
            raise BadInput(
                f"input {first!r} has a bad number of rows: wanted 1 to {MOST_ROWS}, given {rows}; send at least one "
                "row, and large sets in pieces",
                input_name=first,
                wanted=f"1 to {MOST_ROWS}",
                given=str(rows),
            )
        return rows

    def _bad(self, name: str, array: Array, problem: str) -> BadInput:
        spec = next((spec for spec in self.inputs if spec.name == name), None)
        wanted = "[rows, ...]" if spec is None else _describe(spec)
        return BadInput(
            f"input {name!r} of model {self.model} {problem}: wanted {wanted}, given {list(array.shape)}",
            input_name=name,
            wanted=wanted,
            given=str(list(array.shape)),
        )

    def _check_names(self, inputs: Mapping[str, Array], wanted: Sequence[str]) -> None:
        known = {spec.name for spec in self.inputs}
        if known and (missing := sorted(known - inputs.keys())):
            raise BadInput(
                f"input '{missing[0]}' of model {self.model} is missing; it takes {sorted(known)}",
                input_name=missing[0],
                wanted=_describe(self._input(missing[0])),
                given="nothing",
            )
        takes_none = self.whole and bool(self.outputs) and not known
        if (known or takes_none) and (strange := sorted(inputs.keys() - known)):
            raise BadInput(
                f"model {self.model} has no input '{strange[0]}'; it takes {sorted(known) or 'none'}",
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
        shape = array.shape[1:] if spec.batched else array.shape
        good = (
            datatype == spec.datatype
            and array.ndim == len(spec.full_shape)
            and all(want in (-1, have) for want, have in zip(spec.shape, shape, strict=True))
        )
        if not good:
            given = f"{datatype} {list(array.shape)}"
            with_rows = f" with {rows} rows" if spec.batched else ""
            raise BadInput(
                f"input '{spec.name}' of model {self.model} must be {_describe(spec)}{with_rows}; it is {given}",
                input_name=spec.name,
                wanted=_describe(spec),
                given=given,
            )

    def _padded(self, name: str, array: Array, padding: Padding) -> Array:
        """Only a dimension that varies is padded, and only in inputs that have it."""
        axis = padding.dimension + 1
        spec = next((spec for spec in self.inputs if spec.name == name), None)
        if name in self.unbatched_inputs:
            return array
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
    return f"{spec.datatype} {list(spec.full_shape)}"
