"""Are two answers to equal rows the same? EXACT: from calls of one size, which compute alike. CLOSE: from calls of
different size, whose kernels may add up in another order, so that the last digits differ."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

import ml_dtypes
import numpy as np

from batchwright_worker.inference.requests import Array

_SHORT: Final = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_FEW: Final = 0.01
"""This share of whole numbers, of many, may differ CLOSE: where two scores are nearly equal, the last digit decides
which class has the larger one."""
Differs = str
"""How two answers differ, for a message."""


class Sameness(enum.Enum):
    """See the module; the values are tolerances relative to the largest number of the row: of long floats, of short."""

    EXACT = (1e-5, 1e-3)
    CLOSE = (1e-3, 3e-2)

    def of(self, left: Sequence[Array], right: Sequence[Array]) -> Differs | None:
        """None if they are the same."""
        for one, other in zip(left, right, strict=True):
            if one.shape != other.shape:
                return f"shape {list(one.shape)} and {list(other.shape)}"
            if (differs := self._differs(one, other)) is not None:
                return differs
        return None

    def _differs(self, one: Array, other: Array) -> Differs | None:
        if one.dtype.kind not in "fV":
            return self._whole_differs(one, other)
        long, short = self.value
        tolerance = short if one.dtype in _SHORT else long
        first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
        finite = np.isfinite(first) & np.isfinite(second)
        if not np.array_equal(first[~finite], second[~finite], equal_nan=True):
            return "where it is finite"
        scale = float(np.abs(first[finite]).max(initial=0.0))
        worst = float(np.abs(first[finite] - second[finite]).max(initial=0.0))
        return f"by {worst:.3g}, where it is {scale:.3g} at most" if worst > tolerance * scale + 1e-30 else None

    def _whole_differs(self, one: Array, other: Array) -> Differs | None:
        unequal = int(np.count_nonzero(np.asarray(one != other)))
        allowed = int(_FEW * one.size) if self is Sameness.CLOSE else 0
        return f"{unequal} of {one.size} elements" if unequal > allowed else None
