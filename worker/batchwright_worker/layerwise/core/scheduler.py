"""The decisions of one accelerator: line-up, timeline and policy put together. Pure; used by plans and executors alike.

A plan calls `step` until it returns None. An executor (timeline with `live=True`) calls, whenever its memory engine is
free:

    decision, placement = scheduler.decide(now)      # fetch decision.layer, then queue its compute
    scheduler.timeline.correct(placement.sequence, fetch_end=...)      # as measured, in any order
    scheduler.timeline.correct(placement.sequence, compute_end=...)

and starts the fetch when the layer has room in its own arena, which is what the timeline predicted as fetch_start.
"""

from __future__ import annotations

from typing import NamedTuple

from batchwright_worker.layerwise.core.lineup import Lineup
from batchwright_worker.layerwise.core.policy import Policy
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Decision, Placement, Request

__all__ = ["Scheduler", "Step"]


class Step(NamedTuple):
    """A decision and where it put the layer."""

    decision: Decision
    placement: Placement


class Scheduler:
    """Takes requests, gives one layer at a time."""

    def __init__(self, timeline: Timeline, policy: Policy) -> None:
        self.timeline = timeline
        self.policy = policy
        self.lineup = Lineup(timeline.budget_bytes)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises BudgetTooSmall if a layer can never fit."""
        self.lineup.add(request)

    def step(self) -> Step | None:
        """The next decision of a plan, taken when the memory engine becomes free or, with nothing to fetch then, at
        the next arrival. None when all layers are placed."""
        arrival = self.lineup.next_arrival()
        return self._pick(max(self.timeline.memory_free, arrival)) if len(self.lineup) else None

    def decide(self, now: float) -> Step | None:
        """The next decision of an executor whose memory engine is free `now`; None if no request has arrived."""
        self.timeline.advance(now)
        return self._pick(now)

    def _pick(self, now: float) -> Step | None:
        candidates = self.lineup.candidates(now)
        if not candidates:
            return None
        decision = self.policy.choose(self.timeline, candidates)
        self.lineup.pick(decision, candidates)
        return Step(decision, self.timeline.push(decision.layer, decision.request.arrival))
