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


class WantedClasses(msgspec.Struct, frozen=True, kw_only=True):
    """How many classes are wanted `of` which outputs; the classes of an output `without_rows` are one list. `labels`
    by output."""

    of: Mapping[str, int]
    labels: Mapping[str, tuple[str, ...]] = {}
    without_rows: frozenset[str] = frozenset()


def to_classify(outputs: Mapping[str, Array], wanted: WantedClasses) -> dict[str, Array]:
    """The outputs of which classes are wanted."""
    return {name: array for name, array in outputs.items() if wanted.of.get(name)}


def classes_of(outputs: Mapping[str, Array], wanted: WantedClasses) -> dict[str, Array]:
    """The classes of these outputs. Raises BadInput for one that is no numbers."""
    return {
        name: _top(name, array, wanted.of[name], wanted.labels.get(name, ()), name in wanted.without_rows)
        for name, array in outputs.items()
    }


def with_classes(result: InferResult, classes: Mapping[str, Array]) -> InferResult:
    """The result with classes in the place of outputs."""
    return msgspec.structs.replace(result, outputs={**result.outputs, **classes}, shared=None)


def _top(name: str, array: Array, count: int, labels: Sequence[str], whole: bool) -> Array:
    """[rows, classes], or [classes]; the largest first, of equal ones the first."""
    if array.dtype.kind in "OSU":
        raise BadInput(f"output {name!r} is text: only numbers have classes; leave out its {PARAMETER}")
    scores = array.reshape(1 if whole else len(array), -1)
    order = np.argsort(_descending(scores), axis=1, kind="stable")[:, :count]
    top = np.empty(order.shape, dtype=np.object_)
    for row, indices in enumerate(order.tolist()):
        top[row] = [_text(scores[row, index], index, labels) for index in indices]
    return top[0] if whole else top


def _descending(scores: Array) -> Array:
    """What grows as they fall. Whole numbers stay whole: floats would make near ones equal."""
    inverted: Array = ~scores if scores.dtype.kind in "biu" else -scores.astype(np.float64)
    return inverted


def _text(score: Any, index: int, labels: Sequence[str]) -> bytes:
    value = f"{score:d}" if score.dtype.kind in "iu" else f"{float(score):f}"
    label = f":{labels[index]}" if index < len(labels) and labels[index] else ""
    return f"{value}:{index}{label}".encode()
