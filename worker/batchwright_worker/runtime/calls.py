"""Batches as calls of a loaded model, by its plan: in pieces where the model fixes the rows of a call, and held against
what it declares. Nothing that does not fit is joined, padded or cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from batchwright_worker.backends.base import LoadedModel, Overlapping
from batchwright_worker.batching.answers import conformed
from batchwright_worker.batching.calls import joined, pieces
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import BatchPlan

__all__ = ["begin_batch", "run_batch"]


def run_batch(model: LoadedModel, plan: BatchPlan, inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """The outputs of a batch. Raises WrongOutputs, or what the model raises."""
    if plan.piece in (0, rows):
        return conformed(model.run(inputs, rows), plan.outputs, rows)
    calls = pieces(inputs, rows, plan.piece, plan.unbatched_inputs)
    parts = [conformed(model.run(call, plan.piece), plan.outputs, plan.piece) for call in calls]
    return joined(plan, parts, rows)


def begin_batch(
    model: LoadedModel, plan: BatchPlan, inputs: Mapping[str, Array], rows: int
) -> Callable[[], dict[str, Array]]:
    """As `run_batch`, in two steps, for a model that overlaps (and cuts pieces by itself)."""
    finish = cast(Overlapping, model).begin(inputs, rows)
    return lambda: conformed(finish(), plan.outputs, rows)
