"""What a manifest and a model's own tensors leave to be found out, and what went wrong with that, in a sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from batchwright_worker.batching.declared import DeclarationError, Held
from batchwright_worker.batching.plans import Specs, rows_plans, whole_plan
from batchwright_worker.batching.samples import SampleError
from batchwright_worker.batching.trials import (
    Question,
    RowsDependError,
    UntestedError,
    WrongDeclarationError,
    untried,
)
from batchwright_worker.inference.runtime import BatchMode, BatchPlan, TensorSpec, WarmUpTensor


class Declaration(Protocol):
    """What the manifest says of a model; `DeclaredSource` and the wire's `ModelSource` are such."""

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...

    @property
    def outputs(self) -> Sequence[TensorSpec]: ...

    @property
    def mode(self) -> BatchMode | None: ...

    @property
    def warmup(self) -> tuple[WarmUpTensor, ...]: ...

    @property
    def padding(self) -> int: ...


class ContradictionError(Exception):
    """Manifest and model contradict each other; the message says where, and what to change."""


def question_of(model: str, inputs: Specs, outputs: Specs, declared: Declaration) -> Question:
    """What to ask of a model that has these tensors. Raises DeclarationError."""
    held = Held(model=model, inputs=declared.inputs, outputs=declared.outputs)
    wanted, given = held.inputs_of(inputs), held.outputs_of(outputs)
    return Question(
        readings=rows_plans(wanted, given, inputs, outputs_open=not declared.outputs),
        whole=whole_plan(wanted, given, "" if declared.mode == "Whole" else _no_reading(wanted)),
        mode=declared.mode,
        declared=declared.warmup,
        padding=declared.padding,
        outputs_open=not declared.outputs,
    )


def _no_reading(inputs: Specs) -> str:
    if not inputs:
        return "it has no inputs"
    if not any(spec.full_shape for spec in inputs):
        return "none of its inputs has a dimension that could be the batch"
    return "the first dimensions of its inputs are fixed to different sizes, so none is the batch"


def without_trials(question: Question, why: str) -> BatchPlan:
    """The plan of a model that must not be run. Raises RowsDependError."""
    return untried(question, [UntestedError(why)] * len(question.readings))


@contextlib.contextmanager
def explained(model: str) -> Iterator[None]:
    """What goes wrong within the block, as ContradictionError."""
    try:
        yield
    except DeclarationError as error:
        raise ContradictionError(str(error)) from error
    except SampleError as error:
        raise ContradictionError(f"model {model!r}: {error}") from error
    except WrongDeclarationError as error:
        raise ContradictionError(f"model {model!r}: {error}; correct spec.models[].outputs, or the model") from error
    except RowsDependError as error:
        raise ContradictionError(
            f"model {model!r} is not one of independent rows, as batching.mode: Rows says: {error}; remove "
            "batching.mode, or write Whole"
        ) from error
