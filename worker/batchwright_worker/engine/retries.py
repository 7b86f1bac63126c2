"""Rows whose batch was lost with its runtime: queued again, and searched for the request that kills runtimes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from batchwright_worker.engine.isolation import PartsLost
from batchwright_worker.engine.loss_budget import LossBudget
from batchwright_worker.engine.parts import EngineParts
from batchwright_worker.engine.pending import Part
from batchwright_worker.engine.poison_search import PoisonSearch
from batchwright_worker.inference.errors import ModelFailed
from batchwright_worker.scheduler.queues import Bucket, QueuedRequest
from batchwright_worker.scheduler.steps import Batch

RESTART_S: Final = 0.2
"""A new process, connected: 7 ms where a spare one waits, some tenths of a second where libraries are imported."""


@dataclass(slots=True)
class Retries:
    """One per engine."""

    engine: EngineParts
    search: PoisonSearch = field(default_factory=PoisonSearch)
    budget: LossBudget = field(default_factory=LossBudget)

    def retry(self, batch: Batch, lost: PartsLost, began: float) -> float:
        """Queue lost rows again, of a batch that `began` then. Returns how long the model is to rest, for the sake of
        the other models of its device; nearly always 0.

        Those that the runtime died under go into halves that share no batch with anyone else (see `poison_search`),
        until the request that kills it is alone; the others keep their bucket."""
        model, bucket = batch.run.model, batch.run.bucket
        is_blamed = lost.cause is not None and lost.cause.begun
        if lost.cause is not None and is_blamed:
            self.engine.counters[model].hung += lost.cause.overdue
            # Of several batches at once (layerwise) nobody knows which one it was, unless one has taken too long.
            if lost.cause.overdue or not lost.cause.beside:
                self._charge(batch, began)
        self.engine.counters[model].retried += 1
        for part in lost.others:
            self._requeue(part, model, bucket)
        # By identity: one request may have several parts in a batch, and counts once in the search.
        searched = {id(part.pending): part.pending for part in lost.running if part.pending.waits}
        if not searched:
            return self._rest_s(model) if is_blamed else 0.0
        alone_before = [pending.deaths_alone for pending in searched.values()]
        beside = lost.cause is not None and lost.cause.beside
        decision = self.search.lost(model, bucket, alone_before, beside=beside)
        places = [bucket for size, bucket in zip(decision.sizes, decision.buckets, strict=True) for _ in range(size)]
        # No places where the search ends: everyone is answered with an error below, and `_requeue` skips them.
        isolated = dict(zip(searched, places, strict=False))
        for pending in searched.values():
            pending.deaths_alone += decision.alone
            if decision.fails:
                self.engine.requests.fail(pending, ModelFailed(f"{decision.reason} ({lost})"))
        for part in lost.running:
            self._requeue(part, model, isolated.get(id(part.pending), bucket))
        # Not before the search has ended: then it is known who is to blame, and the others have been answered.
        return self._rest_s(model) if decision.fails else 0.0

    def _rest_s(self, model: str) -> float:
        return self.budget.rest_s(model) if len(self.engine.models) > 1 else 0.0

    def _charge(self, batch: Batch, began: float) -> None:
        """The device's time from the batch's begin until its models are loaded again."""
        scheduler, now = self.engine.scheduler, self.engine.clock()
        # The scheduler hears of the loss before or after this: what was there is in one place or the other.
        device = batch.run.device
        held = scheduler.former.get(device) or scheduler.devices[device].memory.residents
        reload_s = sum(scheduler.models[model].footprint.load_s for model in held)
        self.budget.lost(batch.run.model, now - began + RESTART_S + reload_s, now)

    def _requeue(self, part: Part, model: str, bucket: Bucket) -> None:
        """Queue the rows of a part in their old place, by arrival. They are not admitted once more, and only the
        caller's own deadline drops them: nobody is refused because a process died."""
        pending = part.pending
        if not pending.waits:
            return
        request = pending.request
        entry = QueuedRequest(
            key=0,
            rows=part.start + part.rows,
            start=part.start,
            arrival=request.arrival,
            bucket=bucket,
            priority=request.priority,
            drop_after=request.deadline,
        )
        self.engine.requests.requeued(self.engine.scheduler.requeue(entry, model), pending)
