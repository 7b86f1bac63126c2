"""Tokens of texts as rows of a model: those of like length together, filled up under the attention mask. Pure.

Rows share a batch where their shapes are equal, so lengths are rounded up to few: more texts meet, and at most a
quarter of a row is filler. What is filled up is masked, so that the answer stays that of the text alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from batchwright_worker.inference.requests import Array
from batchwright_worker.language.tensors import IDS, MASK, TYPES, TextTensors
from batchwright_worker.oip.datatypes import numpy_of

_LEAST: Final = 8


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one text, or of one pair; `types` empty: all are of the first."""

    ids: Sequence[int]
    types: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class TextRows:
    """Rows of one length, and which texts they are. `mask` [n, tokens] is 1 where there is a token."""

    texts: tuple[int, ...]
    inputs: dict[str, Array]
    mask: Array

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.inputs.values()) + self.mask.nbytes


def rounded(count: int, most: int) -> int:
    """The length that a row of `count` tokens is filled up to: by a quarter of the next smaller power of two, by 8 at
    least, and never beyond `most`."""
    step = max(_LEAST, (1 << (count - 1).bit_length()) // 8)
    return max(count, min(most, -(-count // step) * step))


def rows_of(tokens: Sequence[Tokens], tensors: TextTensors, filler: int, most: int) -> Iterator[TextRows]:
    """The rows of all texts, one length after the other; none has more than `most` tokens, or the model's fixed
    length."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, each in enumerate(tokens):
        count = len(each.ids)
        length = tensors.tokens if tensors.tokens >= 0 else rounded(count, most) if tensors.is_masked else count
        by_length[length].append(number)
    for length, numbers in sorted(by_length.items()):
        yield _rows([tokens[number] for number in numbers], tuple(numbers), length, tensors, filler)


def _rows(
    tokens: Sequence[Tokens], numbers: tuple[int, ...], length: int, tensors: TextTensors, filler: int
) -> TextRows:
    shape = (len(tokens), length)
    ids, types, mask = np.full(shape, filler, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, each in enumerate(tokens):
        count = len(each.ids)
        ids[row, :count] = each.ids
        mask[row, :count] = 1
        if each.types:
            types[row, :count] = each.types
    made = {IDS: ids, MASK: mask, TYPES: types}
    inputs = {name: made[name].astype(numpy_of(kind), copy=False) for name, kind in tensors.datatypes.items()}
    return TextRows(numbers, inputs, mask)
