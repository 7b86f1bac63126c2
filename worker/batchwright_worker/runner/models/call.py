"""One model task of one item: its rows go out singly and come back in any order; it ends when all of them have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from batchwright_worker.runner.models.client import PendingRow
from batchwright_worker.runner.models.signature import Row
from batchwright_worker.runner.progress import TaskCounters

Outputs = dict[str, NDArray[Any]]


class ModelCall:
    """`done(value)` or `failed(message)` is called once: with what the rows gave, in the shape that they were given in
    (one row, or a list), or with the error of the first bad row."""

    __slots__ = ("_counters", "_done", "_errors", "_failed", "_left", "_many", "_results")

    def __init__(
        self,
        rows: int,
        counters: TaskCounters,
        *,
        many: bool,
        done: Callable[[Any], None],
        failed: Callable[[str], None],
    ) -> None:
        self._left = rows
        self._many = many
        self._counters = counters
        self._results: list[Outputs | None] = [None] * rows
        self._errors: dict[int, str] = {}
        self._done = done
        self._failed = failed

    def pending(self, rows: Sequence[Row]) -> list[PendingRow]:
        """The rows as a model's client wants them."""
        return [PendingRow(row=row, done=self._on_done(i), failed=self._on_failed(i)) for i, row in enumerate(rows)]

    def finish(self) -> None:
        """All rows are answered (or there are none)."""
        if self._errors:
            first = min(self._errors)
            self._failed(f"row {first}: {self._errors[first]}" if self._many else self._errors[first])
        else:
            self._done(self._results if self._many else self._results[0])

    def _on_done(self, index: int) -> Callable[[Outputs, int | None, int], None]:
        def done(outputs: Outputs, batch_size: int | None, request_rows: int) -> None:
            self._results[index] = outputs
            self._counters.row(batch_size=batch_size, request_rows=request_rows)
            self._answered()

        return done

    def _on_failed(self, index: int) -> Callable[[str], None]:
        def failed(message: str) -> None:
            self._errors[index] = message
            self._answered()

        return failed

    def _answered(self) -> None:
        self._left -= 1
        if not self._left:
            self.finish()
