"""A caller that waits: its request, the pieces of its answer, and its one answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.inference.requests import Array, InferRequest, InferResult
from batchwright_worker.scheduler.queues import Bucket


class PendingRequest(msgspec.Struct, kw_only=True, eq=False):
    """One request in the engine. `keys` are its entries in the queues (more than one after a retry); `waits` until it
    is answered or its caller has gone, whatever happens first; `done` is called with the answer, exactly once unless
    the caller has gone."""

    request: InferRequest
    inputs: Mapping[str, Array]
    bucket: Bucket
    done: Callable[[InferResult | InferenceError], None]
    waits: bool = True
    keys: list[int] = []
    pieces: list[tuple[int, Mapping[str, Array]]] = []
    rows_left: int = 0
    began: float | None = None
    batch_size: int = 0
    batches: int = 0
    deaths_alone: int = 0
    """How often a runtime has died while it ran nothing but this request."""

    def rows_of(self, start: int, rows: int) -> Mapping[str, Array]:
        """The input rows [start, start + rows); views, no copies."""
        if rows == self.request.rows:
            return self.inputs
        return {name: array[start : start + rows] for name, array in self.inputs.items()}

    def started(self, now: float, batch_rows: int) -> None:
        """A batch with some of its rows begins."""
        if self.began is None:
            self.began = now
        self.batches += 1
        self.batch_size = max(self.batch_size, batch_rows)

    def add(self, start: int, rows: int, outputs: Mapping[str, Array]) -> bool:
        """Outputs of some of its rows; True when that completes it."""
        self.pieces.append((start, outputs))
        self.rows_left -= rows
        return self.rows_left == 0

    def result(self, now: float, shared: dict[Any, Any] | None = None) -> InferResult:
        """All rows in order, only the wanted outputs; `shared` is its last batch's."""
        arrival, pieces = self.request.arrival, self.pieces
        began = arrival if self.began is None else self.began
        whole = pieces[0][1]
        if len(pieces) == 1:
            outputs = {name: whole[name] for name in self.request.outputs} if self.request.outputs else whole
        else:
            pieces.sort(key=lambda piece: piece[0])
            names = self.request.outputs or tuple(whole)
            outputs = {name: np.concatenate([piece[name] for _, piece in pieces]) for name in names}
        return InferResult(
            outputs=outputs,
            batch_size=self.batch_size,
            queue_ms=(began - arrival) * 1e3,
            run_ms=(now - began) * 1e3,
            shared=shared if len(pieces) == 1 and self.batches == 1 else None,
        )
