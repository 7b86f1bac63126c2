"""Policies: which layer comes next (methods C2-C4). Pure; a policy keeps nothing from one run to another.

    fifo          one request at a time, by arrival, then order (its layers prefetched across requests)
    round_robin   one layer of every model that has a request, in turn
    literal(N)    the published rule: smallest IC, then smallest IM, then arrival, then order; guard N
    rollout(N)    each candidate finished by simple rules over a horizon, the best way begun (`core.rollout`); guard N
    balanced(N, theta)  key (IC, sign * w/(c+w)), sign = -1 if slack > theta * B/BW else +1; guard N

Guard (C4, literal and balanced): a candidate passed over N times or more goes first; of several the one passed over
most, then the order of requests. N = 0: no guard. The candidates are those whose requests have arrived when the
decision is taken, that is when the memory engine becomes free.

Why balanced: all candidates that fit behind the slack (Ce_prev - max(Me_prev, a)) have IC = 0, and the published
tie-break then takes the smallest IM. Once the memory is full that means the smallest weights, forever: the model with
large ones starves. Balanced looks at how much compute is queued up instead. More than theta of what filling the memory
takes: the layer with the largest share of fetching comes next, hidden behind that compute. Less: the layer with the
smallest share, which queues up more compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor, inf, isinf
from typing import Final, Protocol

from batchwright_worker.layerwise.core.steps import exact
from batchwright_worker.layerwise.core.timeline import AcceleratorState
from batchwright_worker.layerwise.core.values import Candidate, Decision, Idle, Layer

__all__ = ["POLICIES", "Balanced", "Fifo", "Literal", "Policy", "RoundRobin"]

DEFAULT_THETA: Final = 0.5
"""Share of the memory's fill time that balanced keeps queued as compute (methods C)."""


class Policy(Protocol):
    """Chooses among at least one candidate; `candidates` come in any order."""

    @property
    def name(self) -> str:
        """As instances and tables write it."""

    def choose(self, accelerator: AcceleratorState, candidates: Sequence[Candidate]) -> Decision:
        """The layer to push next."""


@dataclass(frozen=True, slots=True)
class Fifo:
    """One request after the other."""

    name: str = "fifo"

    def choose(self, accelerator: AcceleratorState, candidates: Sequence[Candidate]) -> Decision:
        """The oldest request's next layer."""
        oldest = min(candidates, key=_by_arrival)
        return decided(oldest, accelerator.probe(oldest.layer, oldest.request.arrival))


class RoundRobin:
    """One layer per model in turn, in the order in which the models' first requests were seen. Remembers the turn."""

    name = "round_robin"

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._turn = 0

    def choose(self, accelerator: AcceleratorState, candidates: Sequence[Candidate]) -> Decision:
        """The candidate whose model was served longest ago (a new model stands behind those before it)."""
        # A new model takes its turn behind all others; several new ones in the order of their requests.
        for candidate in sorted(candidates, key=lambda candidate: candidate.request.order):
            if candidate.request.model not in self._served:
                self._serve(candidate.request.model)
        chosen = min(candidates, key=lambda candidate: self._served[candidate.request.model])
        self._serve(chosen.request.model)
        return decided(chosen, accelerator.probe(chosen.layer, chosen.request.arrival))

    def _serve(self, model: str) -> None:
        self._turn += 1
        self._served[model] = self._turn


@dataclass(frozen=True, slots=True)
class Literal:
    """The published rule (C3) with the guard (C4)."""

    skip_limit: int
    by_memory_idle: bool = True
    """False leaves out the tie-break by IM (an ablation)."""
    name: str = "literal"

    def choose(self, accelerator: AcceleratorState, candidates: Sequence[Candidate]) -> Decision:
        """The overdue candidate, else the smallest (IC, IM, arrival, order)."""
        return guarded(accelerator, candidates, self.skip_limit) or self._smallest(accelerator, candidates)

    def _smallest(self, accelerator: AcceleratorState, candidates: Sequence[Candidate]) -> Decision:
        by_memory = self.by_memory_idle

        def key(candidate: Candidate, idle: Idle) -> tuple[int, int]:
            return idle.compute, idle.memory if by_memory else 0

        return smallest(accelerator, candidates, key)


@dataclass(frozen=True, slots=True)
class Balanced:
    """IC first, then by share of fetching, in the direction that the slack asks for; with the guard.

    `fill_time` is B/BW: what it takes to fill the memory (infinite where nothing bounds it).
    """

    skip_limit: int
    fill_time: Fraction | float
    theta: float = DEFAULT_THETA
    name: str = "balanced"
    enough: float = field(init=False, repr=False, compare=False)
    """Compute queued up, in steps, beyond which a fetch is hidden: theta * B/BW."""

    def __post_init__(self) -> None:
        # Slack is whole, so it is above theta * B/BW exactly when it is above the whole part. Once here and not in
        # every decision: fractions are slow.
        enough = inf if isinf(self.fill_time) else floor(exact(self.theta) * Fraction(self.fill_time))
        object.__setattr__(self, "enough", enough)

    def choose(self, accelerator: AcceleratorState, candidates: Sequence[Candidate]) -> Decision:
        """The overdue candidate, else the smallest (IC, sign * w/(c+w), arrival, order)."""
        return guarded(accelerator, candidates, self.skip_limit) or self._smallest(accelerator, candidates)

    def _smallest(self, accelerator: AcceleratorState, candidates: Sequence[Candidate]) -> Decision:
        enough = self.enough
        memory_free, compute_free = accelerator.memory_free, accelerator.compute_free

        def key(candidate: Candidate, idle: Idle) -> tuple[float, float]:
            # slack = Ce_prev - max(Me_prev, a), methods C, "Timing": per candidate, because its fetch cannot start
            # before its request has arrived.
            slack = compute_free - max(memory_free, candidate.request.arrival)
            share = fetch_share(candidate.layer)
            return idle.compute, -share if slack > enough else share

        return smallest(accelerator, candidates, key)


def fetch_share(layer: Layer) -> float:
    """w/(c+w): 0 for a layer that only computes, 1 for one that only fetches (0 for one that does neither)."""
    both = layer.compute + layer.fetch
    return layer.fetch / both if both else 0


def guarded(accelerator: AcceleratorState, candidates: Sequence[Candidate], skip_limit: int) -> Decision | None:
    """The most skipped of those passed over `skip_limit` times or more, then the order of requests (C4); 0: none."""
    if not skip_limit:
        return None
    # Whatever idle time it costs: without the guard C3 starves models with large weights (methods C, known traps).
    overdue = [candidate for candidate in candidates if candidate.skips >= skip_limit]
    if not overdue:
        return None
    chosen = min(overdue, key=lambda candidate: (-candidate.skips, candidate.request.order))
    return decided(chosen, accelerator.probe(chosen.layer, chosen.request.arrival), guard=True)


def smallest(
    accelerator: AcceleratorState,
    candidates: Sequence[Candidate],
    key: Callable[[Candidate, Idle], tuple[float, float]],
) -> Decision:
    """The candidate with the smallest key; among equals the earliest arrival, then the order of requests."""
    probed = [(candidate, accelerator.probe(candidate.layer, candidate.request.arrival)) for candidate in candidates]
    # Ties are the rule: every layer whose fetch ends within the slack has IC = 0.
    chosen, idle = min(probed, key=lambda pair: (*key(*pair), *_by_arrival(pair[0])))
    return decided(chosen, idle)


def _by_arrival(candidate: Candidate) -> tuple[int, int]:
    return candidate.request.arrival, candidate.request.order


def decided(candidate: Candidate, idle: Idle, *, guard: bool = False) -> Decision:
    """For the next layer of this candidate."""
    return Decision(
        request=candidate.request,
        position=candidate.position,
        skips=candidate.skips,
        idle=idle,
        guarded=guard,
    )


POLICIES: Final = ("literal", "balanced", "rollout", "fifo", "round_robin")
"""The names that instances and commands take."""
