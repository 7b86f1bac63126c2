"""The tensors that a manifest declares, held against those that the model has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from batchwright_worker.inference.runtime import TensorSpec


class DeclarationError(Exception):
    """The manifest declares what the model does not have; the message says what it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a manifest declares of the tensors of one model; empty: nothing."""

    model: str
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]

    def inputs_of(self, found: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """The model's inputs, in its order, as declared. Raises DeclarationError; all of them must be declared."""
        if not self.inputs:
            return tuple(found)
        declared = {spec.name: spec for spec in self.inputs}
        for spec in found:
            if spec.name not in declared:
                raise self._wrong("inputs", found, f"declares no input {spec.name!r}")
        return self._held("inputs", self.inputs, found)

    def outputs_of(self, found: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """The model's outputs, in its order, as declared; those that are not declared are not served. Raises
        DeclarationError."""
        return self._held("outputs", self.outputs, found) if self.outputs else tuple(found)

    def _held(self, what: str, declared: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        known = {spec.name: spec for spec in found}
        for spec in declared:
            has = known.get(spec.name)
            if has is None:
                raise self._wrong(what, found, f"declares {what[:-1]} {described(spec)}")
            if spec.datatype != has.datatype or not _compatible(spec.full_shape, has.full_shape):
                raise self._wrong(what, found, f"declares {what[:-1]} {described(spec)}")
        chosen = {spec.name: spec for spec in declared}
        return tuple(_narrowed(chosen[spec.name], spec) for spec in found if spec.name in chosen)

    def _wrong(self, what: str, found: Sequence[TensorSpec], problem: str) -> DeclarationError:
        has = ", ".join(map(described, found)) or "none that it tells"
        return DeclarationError(
            f"model {self.model!r}: the manifest {problem}; the model's {what} are {has} (-1: any size); correct "
            f"spec.models[].{what}, whose shapes are without the batch dimension (with batched: false, or with "
            "batching.mode: Whole, they are whole)"
        )


def described(spec: TensorSpec) -> str:
    """As messages name a tensor, with its whole shape."""
    return f"{spec.name} {spec.datatype} {list(spec.full_shape)}"


def _compatible(declared: Sequence[int], found: Sequence[int]) -> bool:
    return len(declared) == len(found) and all(
        -1 in (want, have) or want == have for want, have in zip(declared, found, strict=True)
    )


def _narrowed(declared: TensorSpec, found: TensorSpec) -> TensorSpec:
    """As declared, with the sizes that only the model fixes (but not that of the batch)."""
    skipped = 1 if declared.batched else 0
    pairs = zip(declared.shape, found.full_shape[skipped:], strict=True)
    return replace(declared, shape=tuple(have if want < 0 else want for want, have in pairs))
