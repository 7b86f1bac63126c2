"""Snapshot of the cluster that one placement cycle decides on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.placement.demand import Claims, DeploymentInfo
from batchwright_operator.placement.placed_pods import Owner, PlacedPod
from batchwright_operator.processors.nodes import NodeInfo
from batchwright_operator.processors.processor import Processor
from batchwright_operator.reconcile.live_state import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedCluster:
    """All facts that a cycle decides on."""

    gated: tuple[PlacedPod, ...] = ()
    """Pods to place, oldest first."""
    refused: tuple[PlacedPod, ...] = ()
    """Pods that were bound to a node where the scheduler finds that they do not fit."""
    placed: tuple[PlacedPod, ...] = ()
    """Every pod that runs on a node, or will once the scheduler has acted on its affinity."""
    nodes: Mapping[str, NodeInfo] = field(default_factory=dict)
    processors: Mapping[str, Mapping[str, Processor]] = field(default_factory=dict)
    """Node -> kind -> entry of its profile."""
    samples: Mapping[tuple[str, str], Sample] = field(default_factory=dict)
    """(node, kind) -> newest sample, however old."""
    deployments: Mapping[Owner, DeploymentInfo | InvalidSpec] = field(default_factory=dict)
    ratios: Mapping[Owner, float] = field(default_factory=dict)
    """Deployment -> rows per benchmarked image, where it has been measured."""
    claims: Claims = field(default_factory=dict)
    excluded: frozenset[tuple[str, str, str, str]] = frozenset()
    """(namespace, deployment, kind, node) that the scheduler refused."""

    def processor(self, node: str, kind: str) -> Processor | None:
        """The profile's entry; None where there is none yet."""
        return self.processors.get(node, {}).get(kind)
