"""Methods A4 and A5: one number per processor, the smallest one gets the pod. Pure.

    load = (w_u*u + w_m*m + w_p*(1 - capacity/max_capacity) + (w_u + w_m)*p) / (w_u + w_m + w_p)

`u` and `m` are the sampled state in [0, 1], `p` the expected shares of own placements that the samples do not show
yet: they are added to the state, so they weigh as much as it. `p` alone is not cut at 1: a load above 1 says that
more was promised than the processor can do, and keeps a burst from piling up on one full processor.

Order of the candidates: fresh samples before unknown ones, benchmarked before unbenchmarked ones, then the load,
then larger capacity, then name. (Where both are missing on different processors the sample counts more: a slow
place is better than one that may be full or dead.)
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Literal, TypeAlias

Policy: TypeAlias = Literal["Additive", "Forecast"]
Rank: TypeAlias = tuple[bool, bool, float, float, str]

SPREAD_TERM = 0.1
"""What a processor's load grows by when it would take every replica of a deployment."""
_TIE = 9
"""Decimals that decide; beyond them two loads are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Weights of the three terms of A4; not negative, not all zero."""

    utilization: float = 1.0
    memory: float = 1.0
    capacity: float = 1.0

    def normalised(self) -> Weights:
        """The same proportions with sum 1. ValueError when a weight is negative or all are zero."""
        total = self.utilization + self.memory + self.capacity
        if min(self.utilization, self.memory, self.capacity) < 0 or total <= 0:
            raise ValueError("placement.weights: no weight may be negative and at least one must be above 0")
        return Weights(utilization=self.utilization / total, memory=self.memory / total, capacity=self.capacity / total)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Method A3: what the samples say; both in [0, 1], 0 is idle."""

    utilization: float
    memory: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A processor that the pod fits on, with everything that its score is made of."""

    node: str
    kind: str
    capacity: float | None
    """Benchmarked images/s; None: unbenchmarked."""
    state: State | None
    """None: no fresh sample."""
    pending: float = 0.0
    """Shares of own placements that the samples do not show yet."""
    share: float = 0.0
    """What this pod is expected to add to the utilization."""
    forecast: float | None = None
    """Rows/s of this deployment here, if known."""
    all_replicas_here: bool = False
    """All other replicas of the deployment are here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreContext:
    """How candidates are compared: normalised weights and the largest capacity among them."""

    weights: Weights
    max_capacity: float
    policy: Policy = "Additive"

    @classmethod
    def over(cls, candidates: Iterable[Candidate], weights: Weights, policy: Policy = "Additive") -> ScoreContext:
        """The rule for these candidates; Forecast turns into Additive unless every candidate has a forecast."""
        known = list(candidates)
        complete = bool(known) and all(each.forecast for each in known)
        return cls(
            weights=weights.normalised(),
            max_capacity=max((each.capacity or 0.0 for each in known), default=0.0),
            policy=policy if complete else "Additive",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One candidate's load and the weighted terms that add up to it. Keeps its inputs."""

    candidate: Candidate
    policy: Policy
    utilization: float
    memory: float
    capacity: float
    pending: float
    """Own placements not yet in the samples, the spread term, and with Forecast the pod itself."""

    @property
    def load(self) -> float:
        """The number of method A4."""
        return self.utilization + self.memory + self.capacity + self.pending

    @property
    def rank(self) -> Rank:
        """Smaller is better; a total order over the candidates of one pod."""
        each = self.candidate
        return (each.state is None, each.capacity is None, round(self.load, _TIE), -(each.capacity or 0.0), each.node)


def score(candidate: Candidate, rule: ScoreContext) -> Score:
    """The load of one candidate (method A4), or with Forecast its utilization after the placement."""
    state = candidate.state or State(utilization=0.0, memory=0.0)
    spread = SPREAD_TERM if candidate.all_replicas_here else 0.0
    if rule.policy == "Forecast":
        pending = candidate.pending + candidate.share + spread
        return Score(candidate=candidate, policy="Forecast", utilization=state.utilization, memory=0.0, capacity=0.0,
                     pending=pending)  # fmt: skip
    weights = rule.weights
    return Score(
        candidate=candidate,
        policy="Additive",
        utilization=weights.utilization * state.utilization,
        memory=weights.memory * state.memory,
        capacity=weights.capacity * _slowness(candidate.capacity, rule.max_capacity),
        pending=(weights.utilization + weights.memory) * candidate.pending + spread,
    )


def _slowness(capacity: float | None, max_capacity: float) -> float:
    """1 - capacity / max in [0, 1]; 0 where there is nothing to compare (such candidates rank last anyway)."""
    if capacity is None or max_capacity <= 0:
        return 0.0
    return min(1.0, max(0.0, 1.0 - capacity / max_capacity))


def ranked(candidates: Iterable[Candidate], weights: Weights, policy: Policy = "Additive") -> list[Score]:
    """All candidates, best first; their order does not matter."""
    known = list(candidates)
    rule = ScoreContext.over(known, weights, policy)
    return sorted((score(each, rule) for each in known), key=lambda each: each.rank)


def expected_share(*, target: float | None, forecast: float | None, max_services: int | None) -> float:
    """Share of a processor that one pod is expected to take: target throughput / forecast, else 1 / maxServices."""
    if target and forecast:
        return target / forecast
    return 1.0 / max(1, max_services or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """The best candidate and those that came next, best first."""

    best: Score
    runners_up: tuple[Score, ...]


class CandidateHeap:
    """The candidates of one kind of pod, kept in order while placements change them.

    `candidate_of` gives a node's candidate as of now, or None when the pod does not fit there any more. Within one
    board a load may grow unannounced (it is looked at again before it wins); after anything that may have made a
    load smaller, `touch` the node. A pick costs O(log n) and a few scores.
    """

    def __init__(
        self, nodes: Iterable[str], candidate_of: Callable[[str], Candidate | None], rule: ScoreContext
    ) -> None:
        self._candidate_of = candidate_of
        self._rule = rule
        self._ticket = count()
        self._current: dict[str, int] = {}
        self._heap: list[tuple[Rank, int, str]] = []
        for node in nodes:
            self._push(node)
        heapq.heapify(self._heap)

    def pick(self, runners_up: int = 3) -> Pick | None:
        """The best candidate as of now with up to `runners_up` next ones; None when none is left."""
        best = [each for _ in range(runners_up + 1) if (each := self._pop()) is not None]
        for each in best:
            self._insert(each)
        return Pick(best=best[0], runners_up=tuple(best[1:])) if best else None

    def touch(self, node: str) -> None:
        """This node's candidate has changed in any way, or may have come back."""
        scored = self._scored(node)
        if scored is None:
            self._current.pop(node, None)
        else:
            self._insert(scored)

    def _pop(self) -> Score | None:
        while self._heap:
            rank, ticket, node = heapq.heappop(self._heap)
            if self._current.get(node) != ticket:
                continue
            del self._current[node]
            scored = self._scored(node)
            if scored is None:
                continue
            if scored.rank <= rank:
                return scored
            self._insert(scored)
        return None

    def _scored(self, node: str) -> Score | None:
        candidate = self._candidate_of(node)
        return None if candidate is None else score(candidate, self._rule)

    def _insert(self, scored: Score) -> None:
        node = scored.candidate.node
        self._current[node] = ticket = next(self._ticket)
        heapq.heappush(self._heap, (scored.rank, ticket, node))

    def _push(self, node: str) -> None:
        """As _insert, before the heap is one."""
        scored = self._scored(node)
        if scored is not None:
            self._current[node] = ticket = next(self._ticket)
            self._heap.append((scored.rank, ticket, node))
