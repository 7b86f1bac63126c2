"""Candidates and their scores, worked out once per change of a node, whatever pods ask for them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from batchwright_operator.placement.cluster_state import ClusterState
from batchwright_operator.placement.node_changes import NodeChanges
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.placement.scoring import Candidate, Score, ScoreContext, score

T = TypeVar("T")


class PerNode(Generic[T]):
    """What follows from the facts of a node; worked out when it is asked for, and anew once the node has changed."""

    def __init__(self, work_out: Callable[[str], T], changes: NodeChanges) -> None:
        self._work_out, self._changes = work_out, changes
        self._known: dict[str, tuple[int, T]] = {}

    def of(self, node: str) -> T:
        """What is known of this node."""
        serial = self._changes.last_of(node)
        found = self._known.get(node)
        if found is None or found[0] != serial:
            found = self._known[node] = (serial, self._work_out(node))
        return found[1]


class Scoreboard:
    """The nodes that offer one kind, as candidates of any demand for it, and their scores by each context.

    `pod`: of a deployment whose forecasts score, so that the board is its alone. What changes without a node (a sample
    gets stale) is not seen: a board is made anew from time to time. `now` is for whoever uses it to keep.
    """

    def __init__(self, state: ClusterState, kind: str, now: float, *, pod: PlacedPod | None = None) -> None:
        self.made_at = self.now = now
        self._state, self._kind, self._pod = state, kind, pod
        self._candidates = PerNode(self._candidate, state.changes)
        self._scores: dict[object, PerNode[Score | None]] = {}

    def candidate(self, node: str) -> Candidate | None:
        """None: there is no such node."""
        return self._candidates.of(node)

    def by(self, context: ScoreContext) -> Callable[[str], Score | None]:
        """The scores by this context, of the product's own terms."""
        at = (context.policy, context.max_capacity, *context.weights.items())
        scores = self._scores.get(at)
        if scores is None:

            def scored(node: str) -> Score | None:
                candidate = self._candidates.of(node)
                return None if candidate is None else score(candidate, context)

            scores = self._scores[at] = PerNode(scored, self._state.changes)
        return scores.of

    def _candidate(self, name: str) -> Candidate | None:
        node, kind, pod, usage = self._state.nodes.get(name), self._kind, self._pod, self._state.usage
        if node is None:
            return None
        return Candidate(
            node=node,
            kind=kind,
            processor=self._state.processor(name, kind),
            sample=self._state.fresh_sample(name, kind, self.now),
            pending=usage.pending(name, kind),
            share=0.0 if pod is None else usage.share(pod, name),
            forecast=None if pod is None else usage.forecast(pod, name),
        )
