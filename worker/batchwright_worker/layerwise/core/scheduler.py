"""The decisions of one accelerator: ready list, timeline and policy together. Pure; used by plans and executors alike.

A plan calls `step` until it returns None. An executor (timeline with `live=True`) calls, whenever its memory engine is
free:

    decision, placement = scheduler.decide(now)      # fetch decision.layer, then queue its compute
    scheduler.timeline.correct(placement.sequence, fetch_end=...)      # as measured, in any order
    scheduler.timeline.correct(placement.sequence, compute_end=...)

and starts the fetch when the layer has room in its own arena, which is what the timeline predicted as fetch_start.
"""

from __future__ import annotations

from typing import NamedTuple

from batchwright_worker.layerwise.core.policy import Policy
from batchwright_worker.layerwise.core.ready_list import ReadyList
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Decision, LayerPlacement, ModelRequest

__all__ = ["LayerScheduler", "LayerStep"]


class LayerStep(NamedTuple):
    """A decision and where it put the layer."""

    decision: Decision
    placement: LayerPlacement


class LayerScheduler:
    """Queues requests and picks one layer at a time."""

    def __init__(self, timeline: Timeline, policy: Policy) -> None:
        self.timeline = timeline
        self.policy = policy
        self.ready = ReadyList(timeline.budget_bytes)

    def submit(self, request: ModelRequest) -> None:
        """Queue a request. Raises BudgetTooSmall if a layer can never fit."""
        self.ready.add(request)

    def step(self) -> LayerStep | None:
        """The next decision of a plan, taken when the memory engine becomes free or, with nothing to fetch then, at
        the next arrival. None when all layers are placed."""
        arrival = self.ready.next_arrival()
        return None if arrival is None else self._pick(max(self.timeline.memory_free, arrival))

    def decide(self, now: int) -> LayerStep | None:
        """The next decision of an executor whose memory engine is free `now`; None if no request has arrived."""
        self.timeline.advance(now)
        return self._pick(now)

    def _pick(self, now: int) -> LayerStep | None:
        candidates = self.ready.candidates(now)
        if not candidates:
            return None
        decision = self.policy.choose(self.timeline, candidates)
        # The same candidates that the policy saw: a layer that had not arrived was not passed over.
        self.ready.pick(decision, candidates)
        return LayerStep(decision, self.timeline.push(decision.layer, decision.request.arrival))
