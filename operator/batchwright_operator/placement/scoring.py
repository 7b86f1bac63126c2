"""Score of a candidate (methods A4 and A5): one number per processor, the smallest one gets the pod. Pure.

Policy Additive is method A4 as published:

    load = (w_u*u + w_m*m + w_p*(1 - capacity/max_capacity) + (w_u + w_m)*p) / (w_u + w_m + w_p)

`u` and `m` are the sampled utilizations in [0, 1] (A3), `capacity` comes from the benchmark (A1), `p` sums the expected
shares of own placements that the samples do not show yet. They are added to the state, so they weigh as much as it.
`p` alone is not cut at 1: a load above 1 says that more was promised than the processor can do, and keeps a burst from
piling up on one full processor.

Additive lets a fast processor lose against an idle slow one of which far less is left. So where a spec does not ask for
it, a pod goes where it gets most, which the load table and the state tell (ThroughputLeft):

    left = capacity * (1 - u - p)        load = 1 - left / max_capacity, and u + p where that is above 1

On devices that pods do not share, a pod gets a device of its own whatever the others do: there u and p weigh a tenth,
and decide among devices of nearly the same capacity. Where in addition the deployment has a target and its throughput
is known from a processor where it ran, the smallest utilization after the placement wins (Forecast): u + p + the
pod's own share, target / forecast. So processors are filled alike, and what is offered is served wherever it fits.

Order of the candidates: fresh samples before unknown ones, benchmarked before unbenchmarked ones, then the load,
then larger capacity, then name (A5). Where both are missing on different processors the sample counts more: a slow
place is better than one that may be full or dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import msgspec

from batchwright_operator.processors.nodes import NodeInfo
from batchwright_operator.processors.processor import Processor
from batchwright_operator.reconcile.live_state import Sample
from batchwright_worker.api.names import KIND_CPU

Policy: TypeAlias = Literal["Additive", "ThroughputLeft", "Forecast"]
Rank: TypeAlias = tuple[bool, bool, float, float, str]
Weights: TypeAlias = Mapping[str, float]
"""Term -> weight."""

OTHERS_ON_DEVICES: Final = 0.1
"""What the work of other devices of a node counts, where the pod gets a device of its own."""
SPREAD_TERM: Final = 0.1
"""What a processor's load grows by when it would take every replica of a deployment."""
ROUNDS_TO_ZERO: Final = 0.005
"""A smaller value is 0.00 where two decimals are shown."""
DECIMALS: Final = 9
"""Decimals of a load that decide."""


_set: Final = msgspec.structs.force_setattr


def normalised(weights: Weights) -> Weights:
    """The same proportions with sum 1. ValueError when a weight is negative or all are zero."""
    total = sum(weights.values())
    if min(weights.values(), default=0.0) < 0 or total <= 0:
        raise ValueError("placement.weights: no weight may be negative and at least one must be above 0")
    return {name: weight / total for name, weight in weights.items()}


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
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
    # Fields and no properties: every term of every node asks for them. They follow from the others, whatever is given.
    capacity: float | None = None
    """Benchmarked images/s; None: unbenchmarked."""
    shared: bool = False
    """Do pods share a device?"""

    def __post_init__(self) -> None:
        processor = self.processor
        _set(self, "capacity", None if processor is None else processor.capacity)
        _set(self, "shared", self.kind == KIND_CPU or (processor is not None and processor.slots_per_device > 1))

    @property
    def predicted(self) -> float | None:
        """Rows/s that this deployment gets of what is left here, if known."""
        if self.forecast is None or self.sample is None or not self.shared:
            return self.forecast
        return self.forecast * max(0.0, 1.0 - self.sample.utilization - self.pending)


Formula: TypeAlias = Callable[[Candidate, "ScoreContext"], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand of the load."""

    description: str
    """Of its field in the CRD."""
    additive: Formula
    """Its weighted value by policy Additive."""
    left: Formula | None = None
    """Its value by policy ThroughputLeft; None: this policy does not use it."""
    forecast: Formula | None = None
    """Its value by policy Forecast; None: this policy does not use it."""
    silent_at_zero: bool = False
    """A sentence about a load leaves it out where it rounds to zero, except by Forecast."""
    of: Literal["sample", "capacity", ""] = ""
    """What it is computed from: where the candidate has none, its value is no fact, and nothing names it."""

    def is_known(self, candidate: Candidate) -> bool:
        """Is its value a fact?"""
        if self.of == "sample":
            return candidate.sample is not None
        return self.of != "capacity" or candidate.capacity is not None

    def formula(self, policy: Policy) -> Formula | None:
        """How its value is computed by this policy; None: the policy does not use it."""
        match policy:
            case "Additive":
                return self.additive
            case "ThroughputLeft":
                return self.left
            case "Forecast":
                return self.forecast


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


def _speed(candidate: Candidate, context: ScoreContext) -> float:
    """Capacity / max in [0, 1]; 1 where there is nothing to compare (such candidates rank last anyway)."""
    if candidate.capacity is None or context.max_capacity <= 0:
        return 1.0
    return min(1.0, max(0.0, candidate.capacity / context.max_capacity))


def _busy_part(candidate: Candidate, context: ScoreContext) -> float:
    return _speed(candidate, context) * _of_others(candidate) * _sampled_utilization(candidate, context)


def _slow_part(candidate: Candidate, context: ScoreContext) -> float:
    return 1.0 - _speed(candidate, context)


def _pending_part(candidate: Candidate, context: ScoreContext) -> float:
    busy = _sampled_utilization(candidate, context)
    if not candidate.pending and busy <= 1.0:
        return _spread(candidate)
    speed, weight = _speed(candidate, context), _of_others(candidate)
    # More is promised than there is: then all are slowed down alike, however fast the processor is.
    beyond = max(0.0, busy + candidate.pending - 1.0) * (1.0 - speed)
    return weight * (speed * candidate.pending + beyond) + _spread(candidate)


def _of_others(candidate: Candidate) -> float:
    return 1.0 if candidate.shared else OTHERS_ON_DEVICES


def _spread(candidate: Candidate) -> float:
    return SPREAD_TERM if candidate.all_replicas_here else 0.0


TERMS: Final[Mapping[str, Term]] = {
    "utilization": Term(
        description="Share from the processor's utilization.", additive=_utilization, left=_busy_part,
        forecast=_sampled_utilization, of="sample",
    ),
    "memory": Term(description="Share from its memory utilization.", additive=_memory, of="sample"),
    "capacity": Term(
        description="Share from its capacity against the best candidate's.", additive=_capacity,
        left=_slow_part, of="capacity",
    ),
    "pending": Term(
        description="Share from placements that no sample shows yet.", additive=_pending,
        left=_pending_part, forecast=_pending_with_this_pod, silent_at_zero=True,
    ),
}  # fmt: skip
"""The terms of the load, in the order in which they are added and shown. A name is one lower-case word: it is the key
in receipt, status and CRD, the plugin's column, the word in sentences, and the field of the manifest's `Weights` where
the term has a weight of its own."""


class ScoreContext(msgspec.Struct, frozen=True, kw_only=True):
    """How candidates are compared: normalised weights, the largest capacity among them, the terms."""

    weights: Weights
    max_capacity: float
    policy: Policy = "Additive"
    terms: Mapping[str, Term]
    # These follow from the others, whatever is given.
    formulas: tuple[tuple[str, Formula], ...] = ()
    """Of the terms that the policy uses, in their order."""
    silent_at_zero: frozenset[str] = frozenset()
    """Terms that a sentence about a load leaves out where they round to zero."""

    def __post_init__(self) -> None:
        each = ((name, term.formula(self.policy)) for name, term in self.terms.items())
        _set(self, "formulas", tuple((name, formula) for name, formula in each if formula is not None))
        silent = () if self.policy == "Forecast" else (name for name, term in self.terms.items() if term.silent_at_zero)
        _set(self, "silent_at_zero", frozenset(silent))

    @classmethod
    def over(
        cls,
        candidates: Iterable[Candidate],
        weights: Weights,
        policy: Policy = "Additive",
        terms: Mapping[str, Term] = TERMS,
    ) -> ScoreContext:
        """The context of these candidates. Forecast is ThroughputLeft unless every benchmarked one has a forecast, and
        that is Additive where none is benchmarked."""
        known = list(candidates)
        benchmarked = [each for each in known if each.capacity]
        if policy == "Forecast" and not all(each.forecast for each in benchmarked):
            policy = "ThroughputLeft"
        if not benchmarked:
            policy = "Additive"
        return cls(
            weights=normalised(weights),
            max_capacity=max((each.capacity or 0.0 for each in known), default=0.0),
            policy=policy,
            terms=terms,
        )


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate's load and the weighted terms that add up to it. Keeps its inputs."""

    candidate: Candidate
    context: ScoreContext
    terms: Mapping[str, float]
    load: float
    """The number of method A4."""

    @property
    def rank(self) -> Rank:
        """Smaller is better; a total order over the candidates of one pod."""
        each, capacity = self.candidate, self.candidate.capacity
        # Rounded: equal loads summed from other terms differ in their last bits, and A5 breaks their tie by capacity.
        load = round(self.load, DECIMALS)
        return (each.sample is None, capacity is None, load, -(capacity or 0.0), each.node.name)


def score(candidate: Candidate, context: ScoreContext) -> Score:
    """The load of one candidate by the context's policy."""
    terms = {name: formula(candidate, context) for name, formula in context.formulas}
    return Score(candidate=candidate, context=context, terms=terms, load=sum(terms.values()))


def expected_share(*, target: float | None, forecast: float | None, max_services: int | None) -> float:
    """Share of a processor that one pod is expected to take: target throughput / forecast, else 1 / maxServices."""
    if target and forecast:
        return target / forecast
    return 1.0 / max(1, max_services or 1)
