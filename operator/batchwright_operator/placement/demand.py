"""Demand of a pod and preferences of its ModelDeployment: what placement asks of a node. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Literal

import msgspec

from batchwright_operator.api.eligible_kinds import EligibleKinds, eligible_kinds
from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.kube.objects import PV, PVC, Raw
from batchwright_operator.kube.quantities import Amounts
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.placement.scoring import Policy, Weights, normalised
from batchwright_operator.processors.start import architectures
from batchwright_operator.reconcile.interfaces import StoreView
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import SidecarState


class Claims:
    """The PersistentVolumeClaims of the cluster, as far as they say where a pod can run."""

    def __init__(self, store: StoreView) -> None:
        self._store = store

    def terms(self, namespace: str, name: str) -> tuple[Raw, ...] | None:
        """Node selector terms of the claim's volume. Empty: everywhere, as that of a claim without a volume yet; None:
        there is no such claim."""
        claim = self._store.get(PVC, namespace, name)
        if claim is None:
            return None
        volume = self._store.get(PV, "", (claim.get("spec") or {}).get("volumeName", "")) or {}
        required = ((volume.get("spec") or {}).get("nodeAffinity") or {}).get("required") or {}
        return tuple(required.get("nodeSelectorTerms") or ())


_BUSY_ENOUGH: Final = 0.1
"""Below this busy share of its device, a replica's rows per second divided by it say little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one revision's pods of one accelerator kind ask of a node."""

    kind: str
    requests: Amounts
    node_selector: Mapping[str, str] = field(default_factory=dict)
    node_terms: tuple[tuple[Raw, ...], ...] = ()
    """Node selector terms that must hold: every tuple needs one term that matches (the pod's own, its volumes')."""
    tolerations: tuple[Raw, ...] = ()
    model_memory_bytes: int = 0
    """What the largest model needs on one device; 0: unknown."""
    architectures: frozenset[str] = frozenset()
    """That the sidecar's image is built for; empty: not known."""
    impossible: str = ""
    """Why no node at all will do, e.g. a missing artifact or claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentInfo:
    """A ModelDeployment with what placement works out from each version of it once."""

    deployment: ModelDeployment
    eligible: EligibleKinds
    target: float | None
    """Rows/s that one replica is to reach, over all its models; None without a target."""
    architectures: frozenset[str] = frozenset()
    """See `Demand`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPreferences:
    """How a deployment is to be placed among the nodes that fit."""

    policy: Policy
    weights: Weights
    spread: bool


def deployment_info(deployment: ModelDeployment, settings: Settings) -> DeploymentInfo:
    """The facts of one version of a ModelDeployment."""
    targets = [model.targets.throughput or 0 for model in deployment.spec.models if model.targets]
    return DeploymentInfo(
        deployment=deployment,
        eligible=eligible_kinds(deployment, settings),
        target=float(sum(targets)) or None,
        architectures=architectures(settings),
    )


def preferences_of(info: DeploymentInfo) -> PlacementPreferences:
    """The placement part of a spec. Raises ValueError that names a field when the weights make no sense."""
    placement = info.deployment.spec.placement
    return PlacementPreferences(
        policy=_policy(placement.policy, has_target=info.target is not None),
        weights=normalised({name: float(weight) for name, weight in msgspec.structs.asdict(placement.weights).items()}),
        spread=placement.spread and info.deployment.spec.replicas >= 2,
    )


def _policy(asked: Literal["Additive", "Forecast"], *, has_target: bool) -> Policy:
    # The utilization after the placement is known only where it is known what the pod brings.
    return "Additive" if asked == "Additive" else "Forecast" if has_target else "ThroughputLeft"


def demand_of(pod: PlacedPod, info: DeploymentInfo, claims: Claims) -> Demand:
    """What this pod needs of a node."""
    spec = pod.raw.get("spec") or {}
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    own = required.get("nodeSelectorTerms")
    names = [each["persistentVolumeClaim"]["claimName"] for each in spec.get("volumes") or () if _is_claim(each)]
    volumes = {name: claims.terms(pod.namespace, name) for name in names}
    missing = [name for name, terms in volumes.items() if terms is None]
    return Demand(
        kind=pod.kind,
        requests=pod.requests,
        node_selector=spec.get("nodeSelector") or {},
        node_terms=tuple(tuple(terms) for terms in ([own] if own else []) + [t for t in volumes.values() if t]),
        tolerations=tuple(spec.get("tolerations") or ()),
        model_memory_bytes=_largest_model(info.deployment, pod.kind),
        architectures=info.architectures,
        impossible=_impossible(info.eligible, pod.kind, missing),
    )


def ratio_of(running: Iterable[tuple[SidecarState, float]]) -> float | None:
    """A model's own rows per benchmarked image: the median over its replicas of (rows/s / busy share) / capacity.

    Takes (state, capacity of its processor). Replicas that hardly work are left out; None when none is left.
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
    """Bytes on one device: weights and one row of the largest emulated model, or the budget that the user set.

    The largest, not the sum: models that do not fit at once take turns on the device.
    """
    emulated = (artifact.emulated for artifact in deployment.artifacts_for(kind))
    sizes = [each.weights_bytes + each.bytes_per_row for each in emulated if each is not None]
    budget = deployment.runtime_for(kind).memory_budget_bytes
    return max([*sizes, budget or 0])


def _impossible(eligible: EligibleKinds, kind: str, missing_claims: list[str]) -> str:
    if kind not in eligible.kinds:
        return "; ".join(eligible.refusals) or f"spec names no runtime for {kind} any more"
    if missing_claims:
        return f"there is no PersistentVolumeClaim {', '.join(missing_claims)} in this namespace; create it"
    return ""
