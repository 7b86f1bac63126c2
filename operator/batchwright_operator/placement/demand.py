"""From a model pod and its ModelDeployment to what placement asks for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final, TypeAlias

import msgspec

from batchwright_operator.api.eligible_kinds import offer
from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.kube.objects import Raw
from batchwright_operator.placement.filter import Demand
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.placement.scoring import Weights, normalised
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import SidecarState

Claims: TypeAlias = Mapping[tuple[str, str], tuple[Raw, ...] | None]
"""(namespace, claim) -> node selector terms of its volume (empty: everywhere); None: there is no such claim."""

_BUSY_ENOUGH: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPreferences:
    """How a deployment wants to be placed, beyond what its pods say."""

    policy: str
    weights: Weights
    spread: bool
    target: float | None
    """Rows/s that one replica is to reach, over all its models."""


def preferences_of(deployment: ModelDeployment) -> PlacementPreferences:
    """The placement part of a spec. Raises ValueError that names a field when the weights make no sense."""
    placement = deployment.spec.placement
    return PlacementPreferences(
        policy=placement.policy,
        weights=normalised({name: float(weight) for name, weight in msgspec.structs.asdict(placement.weights).items()}),
        spread=placement.spread and deployment.spec.replicas >= 2,
        target=target_of(deployment),
    )


def target_of(deployment: ModelDeployment) -> float | None:
    """Rows/s that one replica is to reach, over all its models; None without a target."""
    targets = [model.targets.throughput or 0 for model in deployment.spec.models if model.targets]
    return float(sum(targets)) or None


def demand_of(pod: PlacedPod, deployment: ModelDeployment, claims: Claims, settings: Settings) -> Demand:
    """What this pod needs of a node."""
    spec = pod.raw.get("spec") or {}
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    own = required.get("nodeSelectorTerms")
    names = [each["persistentVolumeClaim"]["claimName"] for each in spec.get("volumes") or () if _is_claim(each)]
    volumes = {name: claims.get((pod.namespace, name)) for name in names}
    missing = [name for name, terms in volumes.items() if terms is None]
    return Demand(
        kind=pod.kind,
        requests=pod.requests,
        node_selector=spec.get("nodeSelector") or {},
        node_terms=tuple(tuple(terms) for terms in ([own] if own else []) + [t for t in volumes.values() if t]),
        tolerations=tuple(spec.get("tolerations") or ()),
        model_memory_bytes=_largest_model(deployment, pod.kind),
        impossible=_impossible(deployment, pod.kind, missing, settings),
    )


def ratio_of(running: Iterable[tuple[SidecarState, float]]) -> float | None:
    """A model's own rows per benchmarked image: the median over its replicas of (rows/s / busy share) / capacity.

    Takes (state, capacity of its processor). Replicas that hardly work tell nothing; None when none of them does.
    """
    ratios = []
    for state, capacity in running:
        busy = max((device.busy_ratio for device in state.devices), default=0.0)
        rows = sum(model.throughput for model in state.models)
        if busy >= _BUSY_ENOUGH and rows > 0 and capacity > 0:
            ratios.append(rows / min(1.0, busy) / capacity)
    return median(ratios) if ratios else None


def _is_claim(volume: Raw) -> bool:
    return bool(volume.get("persistentVolumeClaim"))


def _largest_model(deployment: ModelDeployment, kind: str) -> int:
    """Bytes on one device: weights and one row of the largest emulated model, or the budget that the user set."""
    emulated = (artifact.emulated for artifact in deployment.artifacts_for(kind))
    sizes = [each.weights_bytes + each.bytes_per_row for each in emulated if each is not None]
    budget = deployment.runtime_for(kind).memory_budget_bytes
    return max([*sizes, budget or 0])


def _impossible(deployment: ModelDeployment, kind: str, missing: list[str], settings: Settings) -> str:
    offered = offer(deployment, settings)
    if kind not in offered.kinds:
        return "; ".join(offered.refusals) or f"spec names no runtime for {kind} any more"
    if missing:
        return f"there is no PersistentVolumeClaim {', '.join(missing)} in this namespace; create it"
    return ""
