"""Reconciler of placement: one key for all gated pods; facts come from the cache and `LiveState`, `cycle` decides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.api.model_deployment import parse
from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, MODEL_DEPLOYMENT, NODE, POD, PV, PVC, Raw
from batchwright_operator.placement import cycle
from batchwright_operator.placement.demand import Claims, DeploymentInfo, deployment_info, ratio_of
from batchwright_operator.placement.placed_pods import Owner, PlacedPod, model_pod, other_pod
from batchwright_operator.placement.refusals import Refusals
from batchwright_operator.placement.snapshot import ObservedCluster
from batchwright_operator.pods.lifecycle import is_over
from batchwright_operator.pods.owner_chain import OwnerChains, chain_watches
from batchwright_operator.processors.nodes import node_info
from batchwright_operator.processors.processor import Processor, processors_of
from batchwright_operator.reconcile.decisions import Decision, Key
from batchwright_operator.reconcile.interfaces import StoreView, Watch
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.reconcile.parsed_objects import ParsedObjects
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import COMPONENT_MODEL, LABEL_COMPONENT, LABEL_DEPLOYMENT

KEY: Final = Key(reconciler="placement")
"""One key: pods that are decided together do not compete, and each sees the placements decided before it."""


class PlacementReconciler:
    """The `reconcile.interfaces.Reconciler` of placement; of earlier cycles it remembers the refusals only."""

    name = KEY.reconciler

    def __init__(self, settings: Settings, live: LiveState) -> None:
        self._settings, self._live = settings, live
        self._models, self._others = ParsedObjects(model_pod), ParsedObjects(other_pod)
        self._nodes = ParsedObjects(node_info)
        self._profiles = ParsedObjects(processors_of)
        self._deployments = ParsedObjects(self._parsed)
        self._refusals = Refusals()

    def watches(self) -> Iterable[Watch]:
        """All pods and nodes, and what can make a node fit that did not: profiles, claims, volumes, deployments."""
        yield Watch(resource=POD, keys=_keys_of_pod, index_labels=(LABEL_COMPONENT, LABEL_DEPLOYMENT))
        yield from chain_watches(lambda _: iter((KEY,)))
        for resource in (NODE, ACCELERATOR_PROFILE, PVC, PV):
            yield Watch(resource=resource, keys=lambda _: (KEY,))
        yield Watch(resource=MODEL_DEPLOYMENT, keys=lambda _: (KEY,))

    def observe(self, store: StoreView, key: Key) -> ObservedCluster | None:
        """The snapshot; None while no pod is gated and none was refused."""
        models, chains = store.labelled(POD, LABEL_COMPONENT, COMPONENT_MODEL), OwnerChains(store)
        if not any(_may_need_placement(pod) and chains.model_deployment_of(pod) is not None for pod in models):
            return None
        pods = [each for each in self._all_pods(store, chains) if not each.over]
        nodes = {name: info for (_, name), info in sorted(self._nodes.of(store.all(NODE)).items())}
        processors = {name: found for (_, name), found in self._profiles.of(store.all(ACCELERATOR_PROFILE)).items()}
        placed = tuple(each for each in pods if each.node and not each.refused)
        refused = tuple(each for each in pods if each.refused)
        self._refusals.update(refused, placed, nodes)
        gated = [each for each in pods if each.gated and not each.terminating]
        return ObservedCluster(
            gated=tuple(sorted(gated, key=lambda each: (each.created_at, each.namespace, each.name))),
            refused=refused,
            placed=placed,
            nodes=nodes,
            processors=processors,
            samples=dict(self._live.samples),
            deployments=self._deployments.of(store.all(MODEL_DEPLOYMENT)),
            ratios=_ratios(placed, processors, {uid: each.state for uid, each in self._live.sidecars.items()}),
            claims=_claims(store),
            excluded=self._refusals.excluded,
        )

    def _all_pods(self, store: StoreView, chains: OwnerChains) -> list[PlacedPod]:
        models: list[Raw] = []
        others: list[Raw] = []
        for raw in store.all(POD):
            (others if chains.model_deployment_of(raw) is None else models).append(raw)
        return [*self._models.of(models).values(), *self._others.of(others).values()]

    def decide(self, observed: ObservedCluster, now: float) -> Decision:
        """See `cycle.decide`."""
        return cycle.decide(observed, self._settings, now)

    def _parsed(self, raw: Raw) -> DeploymentInfo | InvalidSpec:
        try:
            return deployment_info(parse(raw), self._settings)
        except InvalidSpec as error:
            return error


def _keys_of_pod(pod: Raw) -> Iterable[Key]:
    """Model pods concern placement, and so does every other pod that ends and makes room."""
    is_model = (pod["metadata"].get("labels") or {}).get(LABEL_COMPONENT) == COMPONENT_MODEL
    return (KEY,) if is_model or is_over(pod) or is_leaving(pod) else ()


def _may_need_placement(pod: Raw) -> bool:
    """Gated, or perhaps refused: a cheap test, as it is made for every model pod whenever one of them changes."""
    spec = pod.get("spec") or {}
    if spec.get("schedulingGates"):
        return True
    if spec.get("nodeName"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each.get("reason") == "Unschedulable" for each in conditions)


def _ratios(
    placed: Iterable[PlacedPod],
    processors: Mapping[str, Mapping[str, Processor]],
    states: Mapping[str, SidecarState],
) -> dict[Owner, float]:
    """Rows per benchmarked image of every deployment that has a replica at work on a benchmarked processor."""
    running: dict[Owner, list[tuple[SidecarState, float]]] = defaultdict(list)
    for pod in placed:
        processor = processors.get(pod.node, {}).get(pod.kind)
        if pod.deployment and pod.uid in states and processor and processor.capacity:
            running[pod.owner].append((states[pod.uid], processor.capacity))
    ratios = {owner: ratio_of(found) for owner, found in running.items()}
    return {owner: ratio for owner, ratio in ratios.items() if ratio is not None}


def _claims(store: StoreView) -> Claims:
    """Node selector terms of every claim's volume; a claim without a volume yet can be used anywhere."""
    volumes = {each["metadata"]["name"]: each for each in store.all(PV)}
    return {
        (raw["metadata"].get("namespace", ""), raw["metadata"]["name"]): _terms_of_volume(volumes, raw)
        for raw in store.all(PVC)
    }


def _terms_of_volume(volumes: Mapping[str, Raw], claim: Raw) -> tuple[Raw, ...]:
    volume = volumes.get((claim.get("spec") or {}).get("volumeName", ""), {})
    required = ((volume.get("spec") or {}).get("nodeAffinity") or {}).get("required") or {}
    return tuple(required.get("nodeSelectorTerms") or ())
