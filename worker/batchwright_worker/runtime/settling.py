"""A model that was just loaded: what it declares is held against its manifest, and which dimension is the batch is
found out by trying it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from batchwright_worker.backends.base import LoadedModel, LoadError, OutOfDeviceMemoryError
from batchwright_worker.batching.answers import named
from batchwright_worker.batching.declared import DeclarationError, Held
from batchwright_worker.batching.plans import rows_plans, whole_plan
from batchwright_worker.batching.samples import SampleError
from batchwright_worker.batching.trials import (
    Outcome,
    Question,
    RowsDependError,
    TrialCall,
    UntestedError,
    WrongDeclarationError,
    find_plan,
    untried,
)
from batchwright_worker.inference.runtime import BatchPlan, TensorSpec
from batchwright_worker.ipc.messages import ModelSource

__all__ = ["question_of", "settled"]


def settled(model: LoadedModel, source: ModelSource, why_untried: str = "") -> BatchPlan:
    """The plan of a model; it is not run where `why_untried` says why not. Raises LoadError for a manifest that the
    model contradicts, and OutOfDeviceMemoryError where not even one row fits."""
    try:
        question = question_of(model, source)
        if why_untried:
            return untried(question, [UntestedError(why_untried)] * len(question.readings))
        return _tried(model, question)
    except DeclarationError as error:
        raise LoadError(str(error)) from error
    except SampleError as error:
        raise LoadError(f"model {source.name!r}: {error}") from error
    except WrongDeclarationError as error:
        raise LoadError(f"model {source.name!r}: {error}; correct spec.models[].outputs, or the model") from error
    except RowsDependError as error:
        raise LoadError(
            f"model {source.name!r} is not one of independent rows, as batching.mode: Rows says: {error}; remove "
            "batching.mode, or write Whole"
        ) from error


def question_of(model: LoadedModel, source: ModelSource) -> Question:
    """What to ask of it. Raises DeclarationError."""
    held = Held(model=source.name, inputs=source.inputs, outputs=source.outputs)
    inputs, outputs = held.inputs_of(model.inputs), held.outputs_of(model.outputs)
    readings = rows_plans(inputs, outputs, model.inputs, outputs_open=not source.outputs)
    return Question(
        readings=readings,
        whole=whole_plan(inputs, outputs, "" if source.mode == "Whole" else _no_reading(inputs)),
        mode=source.mode,
        declared=source.warmup,
        padding=source.padding,
        outputs_open=not source.outputs,
    )


def _no_reading(inputs: Sequence[TensorSpec]) -> str:
    if not any(spec.full_shape for spec in inputs):
        return "none of its inputs has a dimension that could be the batch"
    return "the first dimensions of its inputs are fixed to different sizes, so none is the batch"


def _tried(model: LoadedModel, question: Question) -> BatchPlan:
    trials, ran = find_plan(question, time.monotonic), False
    try:
        call = next(trials)
        while True:
            outcome = _outcome(model, call, question)
            if isinstance(outcome, OutOfDeviceMemoryError) and not ran:
                raise outcome
            ran = ran or not isinstance(outcome, Exception)
            call = trials.send(outcome)
    except StopIteration as end:
        plan: BatchPlan = end.value
        return plan


def _outcome(model: LoadedModel, call: TrialCall, question: Question) -> Outcome:
    try:
        return named(model.run(call.inputs, call.rows), question.whole.outputs)
    except Exception as error:
        return error
