"""Pending requests: accepted and not answered yet, with the pieces of their answers. Each is answered exactly once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from batchwright_worker.engine.counters import ModelCounters
from batchwright_worker.engine.signature import Signature
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.inference.requests import Array, InferRequest, InferResult
from batchwright_worker.oip.encoded_bytes import joined
from batchwright_worker.scheduler.queues import Bucket
from batchwright_worker.scheduler.scheduler import Scheduler

_LOG = logging.getLogger(__name__)


class DueTime:
    """When a request is answered as late; `pending` is None once it is answered, so that nothing keeps its inputs."""

    __slots__ = ("at", "pending")

    def __init__(self, at: float, pending: PendingRequest) -> None:
        self.at = at
        self.pending: PendingRequest | None = pending

    def __lt__(self, other: DueTime) -> bool:
        return self.at < other.at


class PendingRequest(msgspec.Struct, kw_only=True, eq=False):
    """One request in the engine. `keys` are its entries in the queues (more than one after a retry); `waits` until it
    is answered or cancelled, whatever happens first; `done` is called with the answer, exactly once unless it is
    cancelled. A msgspec struct and not a dataclass because one is made per request."""

    request: InferRequest
    inputs: Mapping[str, Array]
    bucket: Bucket
    done: Callable[[InferResult | InferenceError], None]
    waits: bool = True
    keys: list[int]
    pieces: list[tuple[int, Mapping[str, Array]]] = []
    rows_left: int = 0
    began: float | None = None
    batch_size: int = 0
    batches: int = 0
    signature: Signature
    """Of the model when it was accepted: which of its tensors are batched."""
    deaths_alone: int = 0
    """How often a runtime has died while it ran nothing but this request."""
    deadline: DueTime | None = None

    def whole_result(self, now: float, outputs: Mapping[str, Array], shared: dict[Any, Any]) -> InferResult:
        """The result where the newest batch has run all of its rows at once, as nearly always; raises as `result`."""
        wanted, arrival = self.request.outputs, self.request.arrival
        began = arrival if self.began is None else self.began
        return InferResult(
            outputs={name: outputs[name] for name in wanted} if wanted else outputs,
            batch_size=self.batch_size,
            queue_ms=(began - arrival) * 1e3,
            run_ms=(now - began) * 1e3,
            shared=shared if self.batches == 1 else None,
        )

    def rows_of(self, start: int, rows: int) -> Mapping[str, Array]:
        """The input rows [start, start + rows); views, no copies."""
        if rows == self.request.rows:
            return self.inputs
        end, whole = start + rows, self.signature.unbatched_inputs
        return {name: array if name in whole else array[start:end] for name, array in self.inputs.items()}

    def started(self, start: int, rows: int, now: float, batch_rows: int) -> Mapping[str, Array]:
        """Note that a batch with some of its rows begins; these rows (see `rows_of`)."""
        if self.began is None:
            self.began = now
        self.batches += 1
        self.batch_size = max(self.batch_size, batch_rows)
        return self.inputs if rows == self.request.rows else self.rows_of(start, rows)

    def add(self, start: int, rows: int, outputs: Mapping[str, Array]) -> bool:
        """Keep the outputs of some of its rows; True when that completes it."""
        self.pieces.append((start, outputs))
        self.rows_left -= rows
        return self.rows_left == 0

    def result(self, now: float, shared: dict[Any, Any] | None = None) -> InferResult:
        """All rows in order, only the wanted outputs; `shared` is its last batch's. Raises KeyError, ValueError for
        outputs that are missing or do not fit each other. Outputs without a batch dimension are the same in all
        pieces."""
        arrival, pieces = self.request.arrival, self.pieces
        began = arrival if self.began is None else self.began
        whole = pieces[0][1]
        if len(pieces) == 1:
            outputs = {name: whole[name] for name in self.request.outputs} if self.request.outputs else whole
        else:
            pieces.sort(key=lambda piece: piece[0])
            names = self.request.outputs or tuple(whole)
            kept = self.signature.unbatched_outputs
            outputs = {
                name: whole[name] if name in kept else joined([piece[name] for _, piece in pieces]) for name in names
            }
        return InferResult(
            outputs=outputs,
            batch_size=self.batch_size,
            queue_ms=(began - arrival) * 1e3,
            run_ms=(now - began) * 1e3,
            shared=shared if len(pieces) == 1 and self.batches == 1 else None,
        )


class Part(msgspec.Struct, frozen=True, eq=False):
    """Rows [start, start + rows) of one pending request."""

    pending: PendingRequest
    start: int
    rows: int


@dataclass(slots=True, kw_only=True)
class PendingRequests:
    """All pending requests of one engine, by the keys of their queue entries; the only place that ends one."""

    scheduler: Scheduler
    counters: Mapping[str, ModelCounters]
    clock: Callable[[], float]
    by_key: dict[int, PendingRequest] = field(default_factory=dict)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no request is pending."""

    def add(self, key: int, pending: PendingRequest) -> None:
        """A new request is in the queue under `key`, the one of its keys."""
        if not self.by_key:
            self.idle.clear()
        self.by_key[key] = pending
        self.counters[pending.request.model].pending += 1

    def requeued(self, key: int, pending: PendingRequest) -> None:
        """Some rows of a pending request are in the queue again, under `key`."""
        pending.keys.append(key)
        self.by_key[key] = pending

    def withdraw(self, pending: PendingRequest) -> None:
        """Take a request that waits out of the queue, to queue it again (`requeued`)."""
        for key in pending.keys:
            self.by_key.pop(key, None)
            self.scheduler.cancel(key)
        pending.keys.clear()

    def answer(self, pending: PendingRequest, answer: InferResult | InferenceError) -> None:
        """Answer a request that waits."""
        self._remove(pending)
        try:
            pending.done(answer)
        except Exception:
            # A front end's bug must not cost the other requests of the batch their answers.
            _LOG.exception("a caller's own callback failed")

    def fail(self, pending: PendingRequest, error: InferenceError, refused: str = "") -> None:
        """Answer with an error, unless it is answered already; `refused`: the reason to count it under."""
        if not pending.waits:
            return
        counters = self.counters[pending.request.model]
        counters.fail.add(self.clock() - pending.request.arrival)
        if refused:
            counters.refused[refused] += 1
        else:
            counters.failed += 1
            counters.failed_rows += pending.request.rows
        self.answer(pending, error)

    def cancel(self, pending: PendingRequest) -> None:
        """Its caller has disconnected: rows that have not started are skipped, the others' results are dropped."""
        if pending.waits:
            self.counters[pending.request.model].cancelled += 1
            self._remove(pending)

    def reject(self, keys: list[int], error: InferenceError, reason: str) -> None:
        """Answer the requests of these queue entries, which will not be served."""
        for key in keys:
            if (pending := self.by_key.get(key)) is not None:
                self.fail(pending, error, reason)

    def _remove(self, pending: PendingRequest) -> None:
        pending.waits = False
        if pending.deadline is not None:
            pending.deadline.pending = None
        self.counters[pending.request.model].pending -= 1
        for key in pending.keys:
            self.by_key.pop(key, None)
            if pending.rows_left:
                self.scheduler.cancel(key)
        if not self.by_key:
            self.idle.set()
