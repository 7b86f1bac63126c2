"""Triton's classification extension: the largest values of an output, as strings `VALUE:INDEX`, or
`VALUE:INDEX:LABEL` where the manifest has labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import Array, InferResult

PARAMETER: Final = "classification"


def _classes_of(parameters: Mapping[str, Any], where: str) -> int:
    """How many are wanted; 0: the output as it is. Raises BadInput."""
    count = parameters.get(PARAMETER, 0)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 1 << 31:
        raise BadInput(
            f"{where}: parameter {PARAMETER!r} is wrong: wanted how many classes, given {count!r}; leave it out for "
            "the output as it is",
            wanted="a whole number",
            given=repr(count),
        )
    return count


def classes_wanted(outputs: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, int] | None:
    """Of which outputs, as (name, parameters), how many classes are wanted; None: of none. Raises BadInput."""
    wanted = {
        name: _classes_of(parameters, f"output {name!r}") for name, parameters in outputs if PARAMETER in parameters
    }
    return {name: count for name, count in wanted.items() if count} or None


def classified(
    result: InferResult, classes: Mapping[str, int], labels: Mapping[str, Sequence[str]], *, whole: bool
) -> InferResult:
    """The result with the wanted classes in the place of these outputs; with `whole` an output has no rows, and its
    classes are one list. `labels` by output. Raises BadInput for an output that is no numbers."""
    outputs = {
        name: _top(name, array, classes[name], labels.get(name, ()), whole) if classes.get(name) else array
        for name, array in result.outputs.items()
    }
    return msgspec.structs.replace(result, outputs=outputs, shared=None)


def _top(name: str, array: Array, count: int, labels: Sequence[str], whole: bool) -> Array:
    """[rows, classes], or [classes]; the largest first, of equal ones the first."""
    if array.dtype.kind in "OSU":
        raise BadInput(f"output {name!r} is text: only numbers have classes; leave out its {PARAMETER}")
    scores = array.reshape(1 if whole else len(array), -1)
    order = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :count]
    top = np.empty(order.shape, dtype=np.object_)
    for row, indices in enumerate(order.tolist()):
        top[row] = [_text(scores[row, index], index, labels) for index in indices]
    return top[0] if whole else top


def _text(score: Any, index: int, labels: Sequence[str]) -> bytes:
    value = f"{score:d}" if score.dtype.kind in "iu" else f"{float(score):f}"
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{value}:{index}{label}".encode()
