"""The candidates of all pods that ask for the same, shared by revisions and kept over cycles. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from batchwright_operator.placement.cluster_state import ClusterState
from batchwright_operator.placement.demand import Demand, PlacementPreferences
from batchwright_operator.placement.filter import counted, rejection_of
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.placement.ranking import Pick, Ranking
from batchwright_operator.placement.scoring import Candidate, Score, ScoreContext

LASTS_S: Final = 10.0
"""A pool is made anew when it is older: what changes without a node (time, a forecast) is seen by then."""
_AT_ONCE: Final = 100
"""Nodes that are looked at before whoever waits may have a turn."""
REFUSED: Final = "refused by the scheduler before"


class CandidatePool:
    """Nodes that fit one demand, ranked, and why the others do not.

    `pod` stands for all that share the pool: of a pod nothing is read here but what its demand and, where forecasts
    score, its deployment say. Take `building` to its end before anything else.
    """

    def __init__(
        self, state: ClusterState, demand: Demand, preferences: PlacementPreferences, pod: PlacedPod, now: float
    ) -> None:
        self.demand, self.made_at = demand, now
        self._state, self._preferences, self._pod, self._now = state, preferences, pod, now
        self._rejections: dict[str, str] = {}
        """Node -> reason; those that do not even offer the kind are only counted."""
        self._reasons: Counter[str] = Counter()
        self._noted = 0
        """How often the reasons changed."""
        self._left_out: tuple[tuple[int, int, int], str] = ((-1, 0, 0), "")
        self._seen = 0
        self._ranking: Ranking
        self.building = self._build()

    def _build(self) -> Iterator[None]:
        """Filters and scores every node; comes up for air every hundred."""
        self._seen = self._state.changes.serial
        known: list[Candidate] = []
        for number, name in enumerate(list(self._state.nodes_with(self.demand.kind))):
            candidate = self._candidate(name)
            if candidate is not None:
                known.append(candidate)
            if number % _AT_ONCE == _AT_ONCE - 1:
                yield
        context = ScoreContext.over(known, self._preferences.weights, self._preferences.policy)
        self._ranking = Ranking(self._candidate, context)
        self._ranking.fill(known)

    def catch_up(self, now: float) -> None:
        """Looks again at the nodes that changed since the last look."""
        # To look may change more: a forecast that has become another one concerns all nodes of its replicas.
        before, self._seen, self._now = self._seen, self._state.changes.serial, now
        for node in self._state.changes.since(before):
            self._ranking.touch(node)

    def pick(self, pod: PlacedPod) -> Pick | None:
        """The best node for this pod."""
        pick = self._ranking.pick(self._special(pod))
        if pick is None:
            return None
        best = pick.best.candidate
        forecast = self._state.usage.forecast(pod, best.node.name)
        if forecast == best.forecast:
            return pick
        # It does not score, and is the deployment's own: for the receipt.
        told = replace(pick.best, candidate=replace(best, forecast=forecast))
        return Pick(best=told, runners_up=pick.runners_up)

    def left_out(self, pod: PlacedPod) -> str:
        """Why other nodes are no candidates, counted."""
        at = (self._noted, len(self._state.nodes), self._refused(pod))
        if self._left_out[0] != at:
            self._left_out = (at, counted(self.reasons(pod)))
        return self._left_out[1]

    def reasons(self, pod: PlacedPod) -> Mapping[str, int]:
        """Reason -> nodes that are left out for it."""
        without = len(self._state.nodes) - len(self._state.nodes_with(self.demand.kind))
        more = {f"without {self.demand.kind}": without, REFUSED: self._refused(pod)}
        return self._reasons + Counter({reason: number for reason, number in more.items() if number})

    def _refused(self, pod: PlacedPod) -> int:
        return sum(node in self._ranking for node in self._state.excluded(pod))

    # --- one node

    def _candidate(self, name: str) -> Candidate | None:
        """The node's candidate; without one, the reason is noted."""
        node, kind, usage = self._state.nodes.get(name), self.demand.kind, self._state.usage
        if node is None:
            self._note(name, "")
            return None
        processor = self._state.processor(name, kind)
        rejection = rejection_of(self.demand, node, usage.requested(name), processor)
        self._note(name, rejection.reason if rejection is not None else "")
        if rejection is not None:
            return None
        forecasts = self._preferences.policy == "Forecast"
        return Candidate(
            node=node,
            kind=kind,
            processor=processor,
            sample=self._state.fresh_sample(name, kind, self._now),
            pending=usage.pending(name, kind),
            share=usage.share(self._pod, name) if forecasts else 0.0,
            forecast=usage.forecast(self._pod, name) if forecasts else None,
        )

    def _note(self, name: str, reason: str) -> None:
        offers = name in self._state.nodes_with(self.demand.kind)
        before, after = self._rejections.pop(name, ""), reason if offers else ""
        self._noted += before != after
        if before:
            self._reasons[before] -= 1
        if after:
            self._rejections[name] = after
            self._reasons[after] += 1

    # --- what is special for one deployment

    def _special(self, pod: PlacedPod) -> dict[str, Score | None]:
        """Nodes that refused its pods, and the node of all its replicas if they are to be spread."""
        special: dict[str, Score | None] = dict.fromkeys(self._state.excluded(pod))
        if self._preferences.spread:
            nodes = self._state.usage.replicas.get(pod.owner, ())
            if len(nodes) == 1:
                (only,) = nodes
                if only in self._ranking and only not in special and (found := self._candidate(only)) is not None:
                    special[only] = self._ranking.special(replace(found, all_replicas_here=True))
        return special
