"""The pools of candidates that are kept over cycles, and the scores that they share. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from batchwright_operator.placement.candidate_pool import CandidatePool
from batchwright_operator.placement.cluster_state import ClusterState
from batchwright_operator.placement.demand import Demand, PlacementPreferences
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.placement.scoreboard import Scoreboard

POOLS: Final = 64
LASTS_S: Final = 10.0
"""What the nodes are ranked by is made anew when it is older: what changes without a node (time) is seen by then."""
SHARED_S: Final = 1.0
"""How old the scores may be that a new pool begins with."""


class Pools:
    """One pool per demand; equal demands of different deployments have the same."""

    def __init__(self) -> None:
        self._pools: OrderedDict[bytes, CandidatePool] = OrderedDict()
        self._boards: dict[str, Scoreboard] = {}
        """Kind -> the scores of its nodes."""

    def of(
        self, state: ClusterState, pod: PlacedPod, demand: Demand, preferences: PlacementPreferences, now: float
    ) -> CandidatePool:
        """The pool for a pod that asks for this."""
        at = _signature(state, pod, demand, preferences)
        pool = self._pools.get(at)
        if pool is None or not pool.is_usable(now - LASTS_S):
            board = self._board(state, pod, preferences, now)
            pool = self._pools[at] = CandidatePool(state, demand, preferences, board)
        self._pools.move_to_end(at)
        while len(self._pools) > POOLS:
            self._pools.popitem(last=False)
        return pool

    def _board(self, state: ClusterState, pod: PlacedPod, preferences: PlacementPreferences, now: float) -> Scoreboard:
        if preferences.policy == "Forecast":
            return Scoreboard(state, pod.kind, now, pod=pod)
        board = self._boards.get(pod.kind)
        if board is None or now - board.made_at > SHARED_S:
            board = self._boards[pod.kind] = Scoreboard(state, pod.kind, now)
        board.now = now
        return board


def _signature(state: ClusterState, pod: PlacedPod, demand: Demand, preferences: PlacementPreferences) -> bytes:
    """Equal for pods of different deployments whose candidates are the same. A forecast is a deployment's own."""
    own: tuple[object, ...] = ()
    if preferences.policy == "Forecast":
        own = (pod.owner, _two_digits(state.ratio(pod.owner)))
    return msgspec.json.encode([demand, preferences, own], order="deterministic")


def _two_digits(value: float | None) -> str:
    """Of a measured value, which moves all the time."""
    return "" if value is None else f"{value:.1e}"
