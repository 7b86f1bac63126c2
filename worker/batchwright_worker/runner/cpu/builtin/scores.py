"""Built-ins for a model's scores: argmax, top-k, CTC decoding."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.runner.cpu.builtin.source import array_of, lines, value_of


def argmax(
    inputs: Mapping[str, Any], *, of: str | None = None, output: str | None = None, labels: Sequence[str] | None = None
) -> Any:
    """Index of the largest score (the first of equals), or its label; along the last dimension of larger arrays."""
    scores = array_of(inputs, of, output)
    best = np.argmax(scores, axis=-1)
    if labels is None:
        return int(best) if best.ndim == 0 else best
    if scores.shape[-1] != len(labels):
        raise ValueError(f"args.labels has {len(labels)} entries, there are {scores.shape[-1]} scores")
    return labels[int(best)] if best.ndim == 0 else [labels[int(index)] for index in best.reshape(-1)]


def top_k(
    inputs: Mapping[str, Any],
    *,
    k: int,
    of: str | None = None,
    output: str | None = None,
    labels: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """The k largest scores, largest first (equals by index): [{index, score, label if there are labels}]."""
    scores = array_of(inputs, of, output)
    if scores.ndim != 1 or not 1 <= k <= len(scores):
        raise ValueError(f"wanted a vector of at least k={k} scores, given shape {list(scores.shape)}")
    best = np.argsort(-scores.astype(np.float64), kind="stable")[:k]
    found: list[dict[str, Any]] = [{"index": int(index), "score": float(scores[index])} for index in best]
    if labels is not None:
        for entry in found:
            entry["label"] = labels[entry["index"]]
    return found


def ctc_decode(
    inputs: Mapping[str, Any],
    *,
    of: str | None = None,
    output: str | None = None,
    characters: Sequence[str] | None = None,
    characters_file: str | None = None,
    blank: int = 0,
) -> Any:
    """Best-path CTC: repeated classes are one, blanks are dropped. {text, score} per row; a list for a list of rows.

    A row is steps x classes probabilities. Class `blank` is no character; the others are `characters` in order, or the
    lines of `characters_file`. The score is the mean probability of the characters kept, 0 where there are none.
    """
    alphabet = tuple(characters) if characters is not None else _alphabet(characters_file)
    value = value_of(inputs, of)
    if isinstance(value, list):
        return [_decoded(array_of({"row": row}, "row", output), alphabet, blank) for row in value]
    return _decoded(array_of(inputs, of, output), alphabet, blank)


@functools.lru_cache(maxsize=4)
def _alphabet(path: str | None) -> tuple[str, ...]:
    if path is None:
        raise ValueError("give args.characters, or args.characters_file with one character a line")
    return tuple(lines(path))


def _decoded(scores: NDArray[Any], alphabet: Sequence[str], blank: int) -> dict[str, Any]:
    if scores.ndim != 2 or scores.shape[1] != len(alphabet) + 1:
        raise ValueError(
            f"wanted steps x {len(alphabet) + 1} scores ({len(alphabet)} characters and the blank), given "
            f"{list(scores.shape)}"
        )
    return best_path(np.argmax(scores, axis=1), np.max(scores, axis=1), alphabet, blank)


def best_path(classes: NDArray[Any], scores: NDArray[Any], alphabet: Sequence[str], blank: int = 0) -> dict[str, Any]:
    """{text, score} of the best class of each step and its score; see `ctc_decode`."""
    keep = np.ones(len(classes), dtype=bool)
    keep[1:] = classes[1:] != classes[:-1]
    keep &= classes != blank
    text = "".join(alphabet[int(index) - (index > blank)] for index in classes[keep])
    return {"text": text, "score": float(np.mean(scores[keep])) if keep.any() else 0.0}
