"""Batches as calls of a model, by its plan: in pieces where the model fixes the rows of a call. Nothing that does not
fit is joined, padded or cut."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import BatchPlan, WrongOutputs


def pieces(
    inputs: Mapping[str, Array], rows: int, piece: int, unbatched: Collection[str] = ()
) -> list[Mapping[str, Array]]:
    """The calls of a batch for models whose batch dimension is fixed to `piece` rows: the last one is filled up with
    its last row. piece 0 (a dynamic batch dimension): one call. Inputs that are `unbatched` go into each as they
    are."""
    if piece in (0, rows):
        return [inputs]
    return [
        {
            name: array if name in unbatched else _filled_up(array[start : start + piece], piece)
            for name, array in inputs.items()
        }
        for start in range(0, rows, piece)
    ]


def joined(plan: BatchPlan, parts: Sequence[Mapping[str, Array]], rows: int) -> dict[str, Array]:
    """The answers to `pieces`, as one. Raises WrongOutputs where their shapes do not go together."""
    return {
        spec.name: _together(spec.name, [part[spec.name] for part in parts])[:rows]
        if spec.batched
        else parts[0][spec.name]
        for spec in plan.outputs
    }


def _together(name: str, parts: Sequence[Array]) -> Array:
    shapes = sorted({part.shape[1:] for part in parts})
    if len(shapes) > 1:
        raise WrongOutputs(
            f"output {name!r} has rows of different shapes in one batch, {list(shapes[0])} and {list(shapes[-1])}; "
            "write batching.mode: Whole, so that each request is a run of its own"
        )
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _filled_up(array: Array, rows: int) -> Array:
    if len(array) == rows:
        return array
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
