"""Models as plain functions of arrays, tried as a runtime process tries a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batchwright_worker.inference.runtime import BatchMode, BatchPlan, TensorSpec, WarmUpTensor
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.runtime.settling import settled

Answer = Callable[..., Any]


class FunctionModel:
    """A LoadedModel: `call` takes the inputs by name. `calls` are the shapes that it was called with."""

    def __init__(self, call: Answer, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.inputs, self.outputs, self._call = inputs, outputs, call
        self.calls: list[dict[str, tuple[int, ...]]] = []

    def run(self, inputs: Mapping[str, Any], rows: int) -> Mapping[str, Any]:
        self.calls.append({name: array.shape for name, array in inputs.items()})
        for spec in self.inputs:
            given = inputs[spec.name].shape
            good = len(given) == len(spec.full_shape) and all(
                w in (-1, g) for w, g in zip(spec.full_shape, given, strict=True)
            )
            if not good:
                raise ValueError(f"{spec.name} cannot be {list(given)}")
        return dict(self._call(**inputs))

    def close(self) -> None:
        pass


def tensor(name: str, *shape: int, datatype: str = "FP32") -> TensorSpec:
    """As an artifact tells it: its whole shape."""
    return TensorSpec(name=name, datatype=datatype, shape=shape, batched=False)


def source(
    mode: BatchMode | None = None,
    inputs: Sequence[TensorSpec] = (),
    outputs: Sequence[TensorSpec] = (),
    warmup: tuple[WarmUpTensor, ...] = (),
) -> ModelSource:
    return ModelSource(
        name="m", format="onnx", path="", inputs=list(inputs), outputs=list(outputs), mode=mode, warmup=warmup
    )


def plan_of(
    call: Answer, has: Sequence[TensorSpec], gives: Sequence[TensorSpec], **declared: Any
) -> tuple[BatchPlan, FunctionModel]:
    """`declared` goes into the manifest."""
    model = FunctionModel(call, has, gives)
    return settled(model, source(**declared)), model
