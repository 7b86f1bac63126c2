"""A caller that waits: its request, the pieces of its answer, and its one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from batchwright_worker.sidecar.queues import Bucket
from batchwright_worker.sidecar.values import Array, InferRequest, InferResult


@dataclass(slots=True, kw_only=True)
class Ticket:
    """One request in the engine. `keys` are its entries in the queues (more than one after a retry); `answer` is set
    exactly once, whatever happens first."""

    request: InferRequest
    inputs: Mapping[str, Array]
    bucket: Bucket
    answer: asyncio.Future[InferResult]
    keys: set[int] = field(default_factory=set)
    pieces: list[tuple[int, Mapping[str, Array]]] = field(default_factory=list)
    rows_left: int = 0
    began: float | None = None
    batch_size: int = 0
    deaths_alone: int = 0
    """How often a runtime has died while it ran nothing but this request."""

    @property
    def waits(self) -> bool:
        """Is anyone still waiting for the answer?"""
        return not self.answer.done()

    def rows_of(self, start: int, rows: int) -> Mapping[str, Array]:
        """The input rows [start, start + rows); views, no copies."""
        if rows == self.request.rows:
            return self.inputs
        return {name: array[start : start + rows] for name, array in self.inputs.items()}

    def started(self, now: float, batch_rows: int) -> None:
        """A batch with some of its rows begins."""
        self.began = now if self.began is None else self.began
        self.batch_size = max(self.batch_size, batch_rows)

    def add(self, start: int, rows: int, outputs: Mapping[str, Array]) -> bool:
        """Outputs of some of its rows; True when that completes it."""
        self.pieces.append((start, outputs))
        self.rows_left -= rows
        return self.rows_left == 0

    def result(self, now: float) -> InferResult:
        """All rows in order, only the wanted outputs."""
        began = self.request.arrival if self.began is None else self.began
        names = self.request.outputs or tuple(self.pieces[0][1])
        self.pieces.sort(key=lambda piece: piece[0])
        if len(self.pieces) == 1:
            outputs = {name: self.pieces[0][1][name] for name in names}
        else:
            outputs = {name: np.concatenate([piece[name] for _, piece in self.pieces]) for name in names}
        return InferResult(
            outputs=outputs,
            batch_size=self.batch_size,
            queue_ms=(began - self.request.arrival) * 1e3,
            run_ms=(now - began) * 1e3,
        )

    def fail(self, error: Exception) -> bool:
        """Answer with an error; False if it was answered before."""
        if self.answer.done():
            return False
        self.answer.set_exception(error)
        return True
