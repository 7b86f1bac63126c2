"""Score of a candidate (methods A4 and A5): one number per processor, the smallest one gets the pod. Pure.

    load = (w_u*u + w_m*m + w_p*(1 - capacity/max_capacity) + (w_u + w_m)*p) / (w_u + w_m + w_p)

`u` and `m` are the sampled utilizations in [0, 1] (A3), `capacity` comes from the benchmark (A1), `p` sums the expected
shares of own placements that the samples do not show yet. They are added to the state, so they weigh as much as it.
`p` alone is not cut at 1: a load above 1 says that more was promised than the processor can do, and keeps a burst from
piling up on one full processor. Policy Forecast scores the utilization after the placement instead: u + p + the pod's
own share.

Order of the candidates: fresh samples before unknown ones, benchmarked before unbenchmarked ones, then the load,
then larger capacity, then name (A5). Where both are missing on different processors the sample counts more: a slow
place is better than one that may be full or dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from batchwright_operator.processors.nodes import NodeInfo
from batchwright_operator.processors.processor import Processor
from batchwright_operator.reconcile.live_state import Sample

Policy: TypeAlias = Literal["Additive", "Forecast"]
Rank: TypeAlias = tuple[bool, bool, float, float, str]
Weights: TypeAlias = Mapping[str, float]
"""Term -> weight."""

SPREAD_TERM: Final = 0.1
"""What a processor's load grows by when it would take every replica of a deployment."""
ROUNDS_TO_ZERO: Final = 0.005
"""A smaller value is 0.00 where two decimals are shown."""
DECIMALS: Final = 9
"""Decimals of a load that decide."""


def normalised(weights: Weights) -> Weights:
    """The same proportions with sum 1. ValueError when a weight is negative or all are zero."""
    total = sum(weights.values())
    if min(weights.values(), default=0.0) < 0 or total <= 0:
        raise ValueError("placement.weights: no weight may be negative and at least one must be above 0")
    return {name: weight / total for name, weight in weights.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A processor that the pod fits on, with everything that a term may be computed from."""

    node: NodeInfo
    kind: str
    processor: Processor | None
    """Its profile entry; None: there is none."""
    sample: Sample | None
    """None: no fresh one."""
    pending: float = 0.0
    """Shares of own placements that the samples do not show yet."""
    share: float = 0.0
    """What this pod is expected to add to the utilization."""
    forecast: float | None = None
    """Rows/s of this deployment here, if known."""
    all_replicas_here: bool = False
    """All other replicas of the deployment are here."""

    @property
    def capacity(self) -> float | None:
        """Benchmarked images/s; None: unbenchmarked."""
        return self.processor.capacity if self.processor else None


Formula: TypeAlias = Callable[[Candidate, "ScoreContext"], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand of the load."""

    description: str
    """Of its field in the CRD."""
    additive: Formula
    """Its weighted value by policy Additive."""
    forecast: Formula | None = None
    """Its value by policy Forecast; None: this policy does not use it."""
    silent_at_zero: bool = False
    """A sentence about Additive leaves it out where it rounds to zero."""
    of: Literal["sample", "capacity", ""] = ""
    """What it is computed from: where the candidate has none, its value is no fact, and nothing names it."""

    def is_known(self, candidate: Candidate) -> bool:
        """Is its value a fact?"""
        has = {"sample": candidate.sample is not None, "capacity": candidate.capacity is not None, "": True}
        return has[self.of]

    def value(self, candidate: Candidate, context: ScoreContext) -> float:
        """What it adds to the candidate's load."""
        if context.policy == "Additive":
            return self.additive(candidate, context)
        return self.forecast(candidate, context) if self.forecast else 0.0

    def is_said(self, value: float, policy: Policy) -> bool:
        """Does a sentence about a load name it?"""
        if policy == "Forecast":
            return self.forecast is not None
        return value >= ROUNDS_TO_ZERO or not self.silent_at_zero


def _utilization(candidate: Candidate, context: ScoreContext) -> float:
    return context.weights["utilization"] * _sampled_utilization(candidate, context)


def _sampled_utilization(candidate: Candidate, _: ScoreContext) -> float:
    return candidate.sample.utilization if candidate.sample else 0.0


def _memory(candidate: Candidate, context: ScoreContext) -> float:
    return context.weights["memory"] * (candidate.sample.memory_utilization if candidate.sample else 0.0)


def _capacity(candidate: Candidate, context: ScoreContext) -> float:
    """1 - capacity / max in [0, 1]; 0 where there is nothing to compare (such candidates rank last anyway)."""
    if candidate.capacity is None or context.max_capacity <= 0:
        return 0.0
    return context.weights["capacity"] * min(1.0, max(0.0, 1.0 - candidate.capacity / context.max_capacity))


def _pending(candidate: Candidate, context: ScoreContext) -> float:
    return (context.weights["utilization"] + context.weights["memory"]) * candidate.pending + _spread(candidate)


def _pending_with_this_pod(candidate: Candidate, _: ScoreContext) -> float:
    return candidate.pending + candidate.share + _spread(candidate)


def _spread(candidate: Candidate) -> float:
    return SPREAD_TERM if candidate.all_replicas_here else 0.0


TERMS: Final[Mapping[str, Term]] = {
    "utilization": Term(
        description="Share from the processor's utilization.", additive=_utilization, forecast=_sampled_utilization,
        of="sample",
    ),
    "memory": Term(description="Share from its memory utilization.", additive=_memory, of="sample"),
    "capacity": Term(
        description="Share from its capacity against the best candidate's.", additive=_capacity, of="capacity"
    ),
    "pending": Term(
        description="Share from placements that no sample shows yet.", additive=_pending,
        forecast=_pending_with_this_pod, silent_at_zero=True,
    ),
}  # fmt: skip
"""The terms of the load, in the order in which they are added and shown. A name is one lower-case word: it is the key
in receipt, status and CRD, the plugin's column, the word in sentences, and the field of the manifest's `Weights` where
the term has a weight of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreContext:
    """How candidates are compared: normalised weights, the largest capacity among them, the terms."""

    weights: Weights
    max_capacity: float
    policy: Policy = "Additive"
    terms: Mapping[str, Term]

    @classmethod
    def over(
        cls,
        candidates: Iterable[Candidate],
        weights: Weights,
        policy: Policy = "Additive",
        terms: Mapping[str, Term] = TERMS,
    ) -> ScoreContext:
        """The context of these candidates; Forecast turns into Additive unless every candidate has a forecast."""
        known = list(candidates)
        complete = bool(known) and all(each.forecast for each in known)
        return cls(
            weights=normalised(weights),
            max_capacity=max((each.capacity or 0.0 for each in known), default=0.0),
            policy=policy if complete else "Additive",
            terms=terms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One candidate's load and the weighted terms that add up to it. Keeps its inputs."""

    candidate: Candidate
    context: ScoreContext
    terms: Mapping[str, float]

    @property
    def load(self) -> float:
        """The number of method A4."""
        return sum(self.terms.values())

    @property
    def rank(self) -> Rank:
        """Smaller is better; a total order over the candidates of one pod."""
        each = self.candidate
        # Rounded: equal loads summed from other terms differ in their last bits, and A5 breaks their tie by capacity.
        load = round(self.load, DECIMALS)
        return (each.sample is None, each.capacity is None, load, -(each.capacity or 0.0), each.node.name)


def score(candidate: Candidate, context: ScoreContext) -> Score:
    """The load of one candidate (method A4), or with Forecast its utilization after the placement."""
    terms = {name: term.value(candidate, context) for name, term in context.terms.items()}
    return Score(candidate=candidate, context=context, terms=terms)


def expected_share(*, target: float | None, forecast: float | None, max_services: int | None) -> float:
    """Share of a processor that one pod is expected to take: target throughput / forecast, else 1 / maxServices."""
    if target and forecast:
        return target / forecast
    return 1.0 / max(1, max_services or 1)
