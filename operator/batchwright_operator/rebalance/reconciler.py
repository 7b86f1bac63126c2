"""Reconciler of rebalancing: one key for the whole cluster, looked at once a window. Of earlier windows it remembers
the gains alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.api.model_deployment import parse
from batchwright_operator.kube.metadata import annotation, is_leaving, label
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, DEPLOYMENT, MODEL_DEPLOYMENT, NODE, POD, PV, PVC, Raw
from batchwright_operator.kube.quantities import Amounts, requests_of, total
from batchwright_operator.placement.demand import Claims, DeploymentInfo, demand_of, deployment_info
from batchwright_operator.placement.placed_pods import PlacedPod, model_pod
from batchwright_operator.pods.lifecycle import is_over
from batchwright_operator.pods.owner_chain import OwnerChains, chain_watches
from batchwright_operator.processors.nodes import node_info
from batchwright_operator.processors.processor import processors_of
from batchwright_operator.rebalance.decide import Workload, decide
from batchwright_operator.rebalance.imbalance import Histories, worst
from batchwright_operator.rebalance.standing import Cluster, Processors, Standing, standing
from batchwright_operator.reconcile.decisions import Decision, Key
from batchwright_operator.reconcile.interfaces import StoreView, Watch
from batchwright_operator.reconcile.keys import no_keys
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.reconcile.parsed_objects import ParsedObjects
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import ANNOTATION_KIND, COMPONENT_MODEL, KIND_CPU, LABEL_COMPONENT, LABEL_DEPLOYMENT

KEY: Final = Key(reconciler="rebalance")
"""One key: the budget is that of the cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedReplicas:
    """All deployments that may be rebalanced or are being so, and the view of the cluster that they are judged by."""

    workloads: tuple[Workload, ...]
    infos: Mapping[str, DeploymentInfo]
    """ModelDeployment uid -> its facts; only of those that want to be rebalanced."""
    store: StoreView


class RebalanceReconciler:
    """The `reconcile.interfaces.Reconciler` of rebalancing."""

    name = KEY.reconciler

    def __init__(self, settings: Settings, live: LiveState) -> None:
        self._settings, self._live = settings, live
        self._pods = ParsedObjects(model_pod)
        self._infos = ParsedObjects(self._info)
        self._histories = Histories(window_s=settings.rebalance_window_seconds)

    def watches(self) -> Iterable[Watch]:
        """What is read. Nothing that changes begins a pass: see `clock`."""
        yield Watch(resource=MODEL_DEPLOYMENT, keys=no_keys)
        yield Watch(resource=POD, keys=no_keys, index_labels=(LABEL_COMPONENT, LABEL_DEPLOYMENT))
        yield from chain_watches(no_keys)
        for resource in (NODE, ACCELERATOR_PROFILE, PV, PVC):
            yield Watch(resource=resource, keys=no_keys)

    def observe(self, store: StoreView, key: Key) -> ObservedReplicas | None:
        """None without any ModelDeployment."""
        owners = {each["metadata"]["uid"]: each for each in store.all(MODEL_DEPLOYMENT) if not is_leaving(each)}
        if not owners:
            return None
        infos = self._infos.of(owners.values())
        wanting = {raw["metadata"]["uid"]: info for raw in owners.values()
                   if (info := infos[_place(raw)]) is not None}  # fmt: skip
        return ObservedReplicas(workloads=tuple(self._workloads(store, owners)), infos=wanting, store=store)

    def decide(self, observed: ObservedReplicas, now: float) -> Decision:
        """See `decide.decide`."""
        found: list[Standing] = []
        if self._histories.is_due(now):
            found = list(self._standings(observed, now))
            self._histories.note(found, now)
        threshold = self._settings.rebalance_threshold
        return decide(observed.workloads, worst(found, self._histories, threshold), self._settings, now)

    # --- within

    def _workloads(self, store: StoreView, owners: Mapping[str, Raw]) -> Iterator[Workload]:
        chains = OwnerChains(store)
        raws = [pod for pod in store.labelled(POD, LABEL_COMPONENT, COMPONENT_MODEL)
                if not is_over(pod) and chains.model_deployment_of(pod) is not None]  # fmt: skip
        parsed = self._pods.of(raws)
        pods: dict[tuple[str, str, str], list[PlacedPod]] = defaultdict(list)
        for each in parsed.values():
            pods[each.namespace, each.deployment, each.kind].append(each)
        for owner in owners.values():
            metadata = owner["metadata"]
            for raw in store.owned(DEPLOYMENT, metadata["uid"]):
                if label(raw, LABEL_COMPONENT) == COMPONENT_MODEL:
                    at = (metadata["namespace"], metadata["name"], _kind_of(raw))
                    yield Workload(deployment=raw, owner=owner, pods=tuple(pods.get(at, ())))

    def _standings(self, observed: ObservedReplicas, now: float) -> Iterator[Standing]:
        wanting = [each for each in observed.workloads
                   if each.owner["metadata"]["uid"] in observed.infos and _is_settled(each)]  # fmt: skip
        if not wanting:
            return
        cluster = self._cluster(observed, {pod.kind for each in wanting for pod in each.pods}, now)
        claims = Claims(observed.store)
        for workload in wanting:
            info = observed.infos[workload.owner["metadata"]["uid"]]
            for pod in workload.pods:
                demand = demand_of(pod, info, claims)
                found = standing(pod, demand, cluster, at_least=self._settings.rebalance_threshold)
                if found is not None:
                    yield found

    def _cluster(self, observed: ObservedReplicas, kinds: Iterable[str], now: float) -> Cluster:
        store, stale_s = observed.store, self._settings.sample_stale_seconds
        nodes = {each["metadata"]["name"]: node_info(each) for each in store.all(NODE)}
        entries = {each["metadata"]["name"]: processors_of(each) for each in store.all(ACCELERATOR_PROFILE)}
        samples = {place: each for place, each in self._live.samples.items() if now - each.taken_at <= stale_s}
        pods = [pod for each in observed.workloads for pod in each.pods]
        unsettled = {pod.node for pod in pods if pod.node and not pod.terminating
                     and pod.unseen(samples.get((pod.node, pod.kind)))}  # fmt: skip
        return Cluster(
            processors={kind: Processors.of(kind, nodes.values(), entries, samples) for kind in set(kinds)},
            nodes=nodes,
            requested=_requested(store),
            own_share=self._own_share,
            unsettled=frozenset(unsettled),
        )

    def _own_share(self, pod: PlacedPod) -> float | None:
        """Of a CPU what the agent tells; of devices of its own what its sidecar says."""
        if pod.kind == KIND_CPU:
            return self._live.share_of_pod((pod.node, pod.kind), pod.uid)
        received = self._live.sidecars.get(pod.uid)
        devices = received.state.devices if received is not None else []
        return sum(each.busy_ratio for each in devices) / len(devices) if devices else None

    def _info(self, raw: Raw) -> DeploymentInfo | None:
        try:
            info = deployment_info(parse(raw), self._settings)
        except InvalidSpec:
            return None
        return info if info.deployment.spec.placement.rebalance == "OnSustainedImbalance" else None


def _place(raw: Raw) -> tuple[str, str]:
    return raw["metadata"].get("namespace", ""), raw["metadata"]["name"]


def _kind_of(deployment: Raw) -> str:
    return annotation(deployment, ANNOTATION_KIND)


def _is_settled(workload: Workload) -> bool:
    """Are all its replicas there and ready, of one template, and is nothing else on the way?"""
    raw, wanted = workload.deployment, workload.wanted
    status = raw.get("status") or {}
    is_seen = int(status.get("observedGeneration", 0)) >= int(raw["metadata"].get("generation", 0))
    counts = {int(status.get(name, 0)) for name in ("replicas", "updatedReplicas", "readyReplicas")}
    serving = [each for each in workload.pods if each.ready_at is not None and not each.terminating]
    return workload.move is None and is_seen and counts == {wanted} and len(serving) == len(workload.pods) == wanted > 0


def _requested(store: StoreView) -> Callable[[str], Amounts]:
    """Node -> what its pods request, summed up for the nodes that are asked about alone."""

    @cache
    def by_node() -> Mapping[str, list[Raw]]:
        found: dict[str, list[Raw]] = defaultdict(list)
        for pod in store.all(POD):
            node = (pod.get("spec") or {}).get("nodeName")
            if node and not is_over(pod):
                found[node].append(pod)
        return found

    return cache(lambda node: total(requests_of(pod["spec"]) for pod in by_node().get(node, ())))
