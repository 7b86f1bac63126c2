"""One model task of a block of items: its rows go out in requests and come back in any order; it ends when all have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.runner.graph.block_values import BlockValues
from batchwright_worker.runner.models.row_block import AskedRows, RowBlock
from batchwright_worker.runner.progress import TaskCounters

Outputs = Mapping[str, NDArray[Any]]
"""Output name -> array of which the first dimension counts the rows."""


@dataclass(slots=True, kw_only=True)
class PendingRows:
    """Rows `start` .. `end - 1` of a row block that want an answer: `done` or `failed` is called once, on the loop, or
    it is split, and each of its parts is answered."""

    call: ModelCall
    number: int
    start: int
    end: int
    refusals: int = 0
    errors: int = 0

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def block(self) -> RowBlock:
        """The rows that it is a part of."""
        return self.call.asked.blocks[self.number]

    def split(self, count: int) -> tuple[PendingRows, PendingRows]:
        """The first `count` rows, and the others."""
        middle = self.start + count
        return tuple(  # type: ignore[return-value]
            PendingRows(call=self.call, number=self.number, start=a, end=b, refusals=self.refusals, errors=self.errors)
            for a, b in ((self.start, middle), (middle, self.end))
        )

    def done(self, outputs: Outputs, batch_size: int | None, request_rows: int) -> None:
        """They were answered, in a request of so many rows and batches of this size as reported."""
        self.call.answered(self, outputs, batch_size, request_rows)

    def failed(self, message: str) -> None:
        """They are not going to be answered."""
        self.call.refused(self, message)


class ModelCall:
    """`done(values, failed)` is called once: the values in the shape in which each item's rows were given (one row, or
    a list), and the error of the first bad row of each other item."""

    __slots__ = ("_counters", "_done", "_errors", "_left", "_pieces", "asked")

    def __init__(
        self,
        asked: AskedRows,
        counters: TaskCounters,
        done: Callable[[BlockValues, dict[int, str]], None],
    ) -> None:
        self.asked = asked
        self._left = asked.rows
        self._counters = counters
        self._pieces: list[dict[int, Outputs]] = [{} for _ in asked.blocks]
        self._errors: dict[int, dict[int, str]] = {}
        self._done = done

    def pending(self) -> list[PendingRows]:
        """The rows as a model's client wants them: one entry per row block."""
        return [
            PendingRows(call=self, number=number, start=0, end=len(block))
            for number, block in enumerate(self.asked.blocks)
        ]

    def answered(self, rows: PendingRows, outputs: Outputs, batch_size: int | None, request_rows: int) -> None:
        """These rows have their outputs."""
        self._pieces[rows.number][rows.start] = outputs
        self._counters.answered_rows(len(rows), batch_size=batch_size, request_rows=request_rows)
        self._settle(len(rows))

    def refused(self, rows: PendingRows, message: str) -> None:
        """These rows are bad."""
        for item, number in rows.block.owners[rows.start : rows.end]:
            self._errors.setdefault(item, {})[number] = message
        self._settle(len(rows))

    def _settle(self, count: int) -> None:
        self._left -= count
        if not self._left:
            self.finish()

    def finish(self) -> None:
        """All rows are answered (or there are none)."""
        failed = dict(self.asked.failed)
        for item, errors in self._errors.items():
            first = min(errors)
            failed[item] = errors[first] if self.asked.counts[item] is None else f"row {first}: {errors[first]}"
        values = None if self._errors else self._as_columns()
        self._done(values or self._one_by_one(), failed)

    def _as_columns(self) -> BlockValues | None:
        """One row an item, all outputs of one type and shape: nothing is taken apart."""
        if len(self.asked.blocks) != 1 or any(count is not None for count in self.asked.counts.values()):
            return None
        pieces = [outputs for _, outputs in sorted(self._pieces[0].items())]
        first = pieces[0]
        if any(_kinds(piece) != _kinds(first) for piece in pieces[1:]) or not first:
            return None
        columns = {name: _joined([piece[name] for piece in pieces]) for name in first}
        return BlockValues([item for item, _ in self.asked.blocks[0].owners], columns=columns)

    def _one_by_one(self) -> BlockValues:
        rows: dict[int, list[Any]] = {item: [None] * (count or 0) for item, count in self.asked.counts.items()}
        single: dict[int, Any] = {}
        for block, pieces in zip(self.asked.blocks, self._pieces, strict=True):
            for start, outputs in pieces.items():
                count = len(next(iter(outputs.values()))) if outputs else 0
                for place in range(count):
                    item, number = block.owners[start + place]
                    value = {name: _own(array[place]) for name, array in outputs.items()}
                    if self.asked.counts[item] is None:
                        single[item] = value
                    else:
                        rows[item][number] = value
        items = [item for item in self.asked.counts if item not in self._errors]
        values = [single[item] if self.asked.counts[item] is None else rows[item] for item in items]
        return BlockValues(items, rows=values)


def _kinds(outputs: Outputs) -> list[tuple[str, Any, tuple[int, ...]]]:
    return [(name, array.dtype, array.shape[1:]) for name, array in outputs.items()]


def _own(value: Any) -> Any:
    """A row that keeps no other in memory; an element is one already."""
    return value.copy() if isinstance(value, np.ndarray) else value


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
