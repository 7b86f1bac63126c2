"""How a replica stands: the load where it is, without its own work, beside the best that it could have. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from batchwright_operator.kube.quantities import Amounts
from batchwright_operator.placement.demand import Demand
from batchwright_operator.placement.filter import rejection_of
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.placement.scoring import Candidate, Score, ScoreContext, score
from batchwright_operator.processors.nodes import NodeInfo
from batchwright_operator.processors.processor import Processor
from batchwright_operator.reconcile.live_state import Sample
from batchwright_worker.api.names import KIND_CPU

CROWDED: Final = 0.7
"""A processor that is less busy than this slows nobody down so much that a restart elsewhere would be worth it."""
_EQUAL: Final = {"utilization": 1.0, "memory": 1.0, "capacity": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Processors:
    """The processors of one kind that are measured and sampled, in the order in which a pod would take them."""

    order: tuple[Score, ...]
    by_node: Mapping[str, Score]
    context: ScoreContext

    @classmethod
    def of(
        cls,
        kind: str,
        nodes: Iterable[NodeInfo],
        processors: Mapping[str, Mapping[str, Processor]],
        samples: Mapping[tuple[str, str], Sample],
    ) -> Processors:
        """Those of `kind`; `samples` has the fresh ones only."""
        found = [
            Candidate(node=node, kind=kind, processor=processor, sample=sample)
            for node in nodes
            if (processor := processors.get(node.name, {}).get(kind)) is not None
            and processor.capacity
            and (sample := samples.get((node.name, kind))) is not None
        ]
        context = ScoreContext.over(found, _EQUAL, "ThroughputLeft")
        scores = sorted((score(each, context) for each in found), key=lambda each: each.rank)
        return cls(order=tuple(scores), by_node={each.candidate.node.name: each for each in scores}, context=context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One replica: its load without its own work, and the smallest that it could have on another node."""

    pod: PlacedPod
    here: float
    there: float
    target: str

    @property
    def gain(self) -> float:
        """By how much its load would be smaller: the part of the fastest processor that it would get more."""
        return self.here - self.there


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a standing is computed from. `requested`: node -> what its pods request; `unsettled`: nodes with pods whose
    work no sample shows yet; `own_share`: what a pod uses of its processor, None where nobody knows."""

    processors: Mapping[str, Processors]
    nodes: Mapping[str, NodeInfo]
    requested: Callable[[str], Amounts]
    own_share: Callable[[PlacedPod], float | None]
    unsettled: frozenset[str] = frozenset()


def standing(pod: PlacedPod, demand: Demand, cluster: Cluster, *, at_least: float) -> Standing | None:
    """How a replica stands; None where it is not crowded, where that cannot be told, or where no node that has room for
    it would be better by `at_least`."""
    processors = cluster.processors.get(pod.kind)
    mine = processors.by_node.get(pod.node) if processors is not None else None
    own = cluster.own_share(pod)
    if processors is None or mine is None or own is None or not _is_crowded(mine, own):
        return None
    here = _without(mine, own, processors.context)
    for each in processors.order:
        if here - each.load < at_least:
            return None
        node = each.candidate.node
        if node.name == pod.node or node.name in cluster.unsettled:
            continue
        if rejection_of(demand, node, cluster.requested(node.name), each.candidate.processor) is None:
            return Standing(pod=pod, here=here, there=each.load, target=node.name)
    return None


def _is_crowded(mine: Score, own: float) -> bool:
    """A CPU is shared: all of it counts. A device of one's own is crowded by oneself."""
    sample = mine.candidate.sample
    assert sample is not None
    return (sample.utilization if mine.candidate.kind == KIND_CPU else own) >= CROWDED


def _without(mine: Score, own: float, context: ScoreContext) -> float:
    """The load where it is, were its own work not there."""
    sample = mine.candidate.sample
    assert sample is not None
    others = max(0.0, sample.utilization - own) if mine.candidate.shared else 0.0
    alone = msgspec.structs.replace(mine.candidate, sample=replace(sample, utilization=others))
    return score(alone, context).load
