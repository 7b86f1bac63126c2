"""A model that was just loaded: what it declares is held against its manifest, and which dimension is the batch is
found out by trying it."""

from __future__ import annotations

from batchwright_worker.backends.base import LoadedModel, LoadError, OutOfDeviceMemoryError
from batchwright_worker.batching.answers import named
from batchwright_worker.batching.questions import ContradictionError, explained, question_of, without_trials
from batchwright_worker.batching.trials import Outcome, Question, TrialCall, find_plan
from batchwright_worker.inference.runtime import BatchPlan
from batchwright_worker.ipc.messages import ModelSource

__all__ = ["settled"]


def settled(model: LoadedModel, source: ModelSource, why_untried: str = "", *, alone: bool = True) -> BatchPlan:
    """The plan of a model; it is not run where `why_untried` says why not. Raises LoadError for a manifest that the
    model contradicts, and OutOfDeviceMemoryError or MemoryError where not even one row fits, or, unless it is `alone`
    in its process, not all rows of a trial: what fits beside others is not a fact about the model."""
    try:
        with explained(source.name):
            question = question_of(source.name, model.inputs, model.outputs, source)
            return without_trials(question, why_untried) if why_untried else _tried(model, question, alone=alone)
    except ContradictionError as error:
        raise LoadError(str(error)) from error


def _tried(model: LoadedModel, question: Question, *, alone: bool) -> BatchPlan:
    trials, ran = find_plan(question), False
    try:
        call = next(trials)
        while True:
            outcome = _outcome(model, call, question)
            if isinstance(outcome, OutOfDeviceMemoryError) and not ran:
                raise outcome
            if isinstance(outcome, OutOfDeviceMemoryError | MemoryError) and not alone:
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
    except SystemExit as error:  # a script's: the process holds other models
        return RuntimeError(f"it called sys.exit({error})")
