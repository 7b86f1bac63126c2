"""The candidates of all pods that ask for the same, shared by revisions and kept over cycles. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec.structs import replace

from batchwright_operator.placement.cluster_state import ClusterState
from batchwright_operator.placement.demand import Demand, PlacementPreferences
from batchwright_operator.placement.filter import counted, insufficient, rejection_of
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.placement.ranking import Pick, Ranking
from batchwright_operator.placement.scoreboard import Scoreboard
from batchwright_operator.placement.scoring import Candidate, Score, ScoreContext, score
from batchwright_operator.processors.nodes import NodeInfo
from batchwright_operator.processors.processor import Processor

_AT_ONCE: Final = 100
"""Nodes that are looked at before whoever waits may have a turn."""
REFUSED: Final = "refused by the scheduler before"
TURNED_AWAY: Final = "turned its pods away lately"
_NOTHING: Final[Mapping[str, Score | None]] = {}


class CandidatePool:
    """Nodes that fit one demand, ranked, and why the others do not. It is as old as `board`, where it finds them. Take
    `building` to its end before anything else."""

    def __init__(
        self, state: ClusterState, demand: Demand, preferences: PlacementPreferences, board: Scoreboard
    ) -> None:
        self.demand, self.made_at = demand, board.made_at
        self._state, self._preferences, self._board = state, preferences, board
        self._rejections: dict[str, str] = {}
        """Node -> reason; those that do not even offer the kind are only counted."""
        self._fitted: dict[str, tuple[NodeInfo, Processor | None]] = {}
        """Nodes that once fitted as they are, but for what their pods ask for."""
        self._reasons: Counter[str] = Counter()
        self._noted = 0
        """How often the reasons changed."""
        self._left_out: tuple[tuple[int, int, int, int], str] = ((-1, 0, 0, 0), "")
        self._seen = 0
        self._context: ScoreContext
        self._ranking: Ranking
        self.building = self._build()

    def _build(self) -> Iterator[None]:
        """Filters and scores every node; comes up for air every hundred."""
        self._seen = self._state.changes.serial
        known: list[Candidate] = []
        for number, name in enumerate(list(self._state.nodes_with(self.demand.kind))):
            if self._fits(name) and (candidate := self._board.candidate(name)) is not None:
                known.append(candidate)
            if number % _AT_ONCE == _AT_ONCE - 1:
                yield
        self._context = ScoreContext.over(known, self._preferences.weights, self._preferences.policy)
        self._ranking = Ranking(self._board.by(self._context))
        yield from self._ranking.filling([each.node.name for each in known], _AT_ONCE)

    def is_usable(self, oldest: float) -> bool:
        """Was it made since then, and can it still find what changed since it looked?"""
        return self.made_at >= oldest and self._seen >= self._state.changes.forgotten

    def catch_up(self, now: float) -> None:
        """Looks again at the nodes that changed since the last look."""
        # To look may change more: a forecast that has become another one concerns all nodes of its replicas.
        before, self._seen, self._board.now = self._seen, self._state.changes.serial, now
        for node in self._state.changes.since(before):
            self._ranking.touch(node, fits=self._fits(node))

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
        at = (self._noted, len(self._state.nodes), self._refused(pod), self._turned_away(pod))
        if self._left_out[0] != at:
            self._left_out = (at, counted(self.reasons(pod)))
        return self._left_out[1]

    def reasons(self, pod: PlacedPod) -> Mapping[str, int]:
        """Reason -> nodes that are left out for it."""
        without = len(self._state.nodes) - len(self._state.nodes_with(self.demand.kind))
        refused, away = self._refused(pod), self._turned_away(pod)
        more = {f"without {self.demand.kind}": without, REFUSED: refused - away, TURNED_AWAY: away}
        return self._reasons + Counter({reason: number for reason, number in more.items() if number})

    def _refused(self, pod: PlacedPod) -> int:
        excluded = self._state.excluded(pod, self._board.now)
        return sum(node in self._ranking for node in excluded) if excluded else 0

    def _turned_away(self, pod: PlacedPod) -> int:
        resting = self._state.resting(pod, self._board.now)
        return sum(node in self._ranking for node in resting) if resting else 0

    # --- one node

    def _fits(self, name: str) -> bool:
        """Is the demand for this node? If not, the reason is noted."""
        state, demand = self._state, self.demand
        node, processor = state.nodes.get(name), state.processor(name, demand.kind)
        if node is None:
            self._note(name, "")
            return False
        room = state.usage.requested(name)
        fitted = self._fitted.get(name)
        if fitted is not None and fitted[0] is node and fitted[1] is processor:
            rejection = insufficient(demand, node, room)  # its pods are all that is new
        else:
            rejection = rejection_of(demand, node, room, processor)
            if rejection is None:
                self._fitted[name] = (node, processor)
        self._note(name, rejection.reason if rejection is not None else "")
        return rejection is None

    def _note(self, name: str, reason: str) -> None:
        if not reason and name not in self._rejections:
            return
        offers = name in self._state.nodes_with(self.demand.kind)
        before, after = self._rejections.pop(name, ""), reason if offers else ""
        self._noted += before != after
        if before:
            self._reasons[before] -= 1
        if after:
            self._rejections[name] = after
            self._reasons[after] += 1

    # --- what is special for one deployment

    def _special(self, pod: PlacedPod) -> Mapping[str, Score | None]:
        """Nodes that refused its pods, and the node of all its replicas if they are to be spread."""
        excluded = self._state.excluded(pod, self._board.now)
        nodes = self._state.usage.replicas.get(pod.owner, ()) if self._preferences.spread else ()
        if not excluded and len(nodes) != 1:
            return _NOTHING
        special: dict[str, Score | None] = dict.fromkeys(excluded)
        if len(nodes) == 1:
            (only,) = nodes
            if only in self._ranking and only not in special and (found := self._board.candidate(only)):
                special[only] = score(replace(found, all_replicas_here=True), self._context)
        return special
