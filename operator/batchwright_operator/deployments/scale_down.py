"""Which replicas go when there are to be fewer: the worst placed ones; pure.

A ReplicaSet deletes pods that are not ready first, and then those of the lowest pod-deletion-cost. The costs are
written before the Deployment is made smaller, and only then: how well a replica is placed changes all the time, and an
annotation that follows it would be a write to every pod at every change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.replicas import Replica
from batchwright_operator.kube.metadata import annotation
from batchwright_operator.kube.objects import POD, Raw
from batchwright_operator.placement.moves import ANNOTATION_DELETION_COST
from batchwright_operator.processors.processor import processors_of
from batchwright_operator.reconcile.decisions import Patch
from batchwright_worker.api.names import ANNOTATION_KIND

GOES_FIRST: Final = -1_000_000
"""Below what users write themselves, who may mark a pod of theirs as dear."""


def deletion_costs(facts: DeploymentFacts, desired: Sequence[Raw]) -> Iterator[Patch]:
    """The costs of the pods of every kind that is to have fewer replicas than its Deployment has now."""
    wanted = {annotation(each, ANNOTATION_KIND): int(each["spec"]["replicas"]) for each in desired}
    for each in facts.deployments:
        kind = annotation(each, ANNOTATION_KIND)
        count = wanted.get(kind, 0)
        if 0 < count < int(each["spec"].get("replicas", 0)):
            yield from _costs(facts, kind, count)


def _costs(facts: DeploymentFacts, kind: str, count: int) -> Iterator[Patch]:
    present = [each for each in facts.present if each.kind == kind]
    worth = _worth(facts, kind, present)
    # Those without a node go anyway, before all others; those that their owner calls dear after all others.
    movable = [each for each in present if each.node and each.deletion_cost <= 0]
    moved = [each for each in movable if each.deletion_cost < GOES_FIRST]  # by `rebalance`: it goes, whatever we say
    ranked = sorted((each for each in movable if each not in moved), key=lambda each: (worth[each.uid], each.name))
    leaving = {each.uid for each in ranked[: max(0, len(present) - count - len(moved))]}
    for replica in ranked:
        cost = str(GOES_FIRST) if replica.uid in leaving else None
        was = str(GOES_FIRST) if replica.deletion_cost == GOES_FIRST else None
        if cost != was:
            yield Patch(
                resource=POD,
                namespace=facts.deployment.namespace,
                name=replica.name,
                patch={"metadata": {"annotations": {ANNOTATION_DELETION_COST: cost}}},
                style="merge",
                uid=replica.uid,
            )


def _worth(facts: DeploymentFacts, kind: str, present: Sequence[Replica]) -> Mapping[str, float]:
    """Pod uid -> what was expected of it where it is: the throughput that was predicted for it, if of all of them; else
    its processor's images/s, as far as others left it free. Nothing is known of a pod that was not placed by us."""
    predicted = {each.uid: each.receipt.predicted_throughput for each in present if each.receipt is not None}
    if len(predicted) == len(present) and all(each is not None for each in predicted.values()):
        return {uid: each or 0.0 for uid, each in predicted.items()}
    nodes = {each.node for each in present}
    capacities = {
        profile["metadata"]["name"]: found.capacity or 0.0
        for profile in facts.profiles
        if profile["metadata"]["name"] in nodes and (found := processors_of(profile).get(kind)) is not None
    }
    return {each.uid: capacities.get(each.node, 0.0) * _free(each) - 1e-9 * (1.0 - _free(each)) for each in present}


def _free(replica: Replica) -> float:
    """The share of the processor that its receipt says was free, in [0, 1]."""
    try:
        return min(1.0, max(0.0, 1.0 - float(replica.receipt.load))) if replica.receipt is not None else 0.0
    except ValueError:
        return 0.0
