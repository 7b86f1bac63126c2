"""One key, all gated pods together: facts come from the cache and from `LiveState`, `cycle` decides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from batchwright_operator.api import model_deployment as model
from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, MODEL_DEPLOYMENT, NODE, POD, PV, PVC, Raw
from batchwright_operator.kube.quantities import Amounts, total
from batchwright_operator.placement import cycle as placing
from batchwright_operator.placement.cycle import ObservedCluster
from batchwright_operator.placement.demand import Claims, ratio_of
from batchwright_operator.placement.placed_pods import PlacedPod, placed_pod
from batchwright_operator.processors.nodes import NodeInfo, node_info
from batchwright_operator.processors.processor import Processor, processors_of
from batchwright_operator.reconcile.decisions import Decision, Key
from batchwright_operator.reconcile.interfaces import StoreView, Watch
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.reconcile.parsed_objects import ParsedObjects
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import COMPONENT_MODEL, LABEL_COMPONENT, LABEL_DEPLOYMENT

KEY: Final = Key(reconciler="placement")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A node as it was when the scheduler refused a pinned pod there."""

    fingerprint: object
    used: Amounts


class PlacementReconciler:
    """Implements domain.Domain. What the scheduler refused is remembered here until the node changes; after a
    restart it may be tried once more, which costs one pod and nothing else."""

    name = KEY.reconciler

    def __init__(self, settings: Settings, live: LiveState) -> None:
        self._settings, self._live = settings, live
        self._pods = ParsedObjects(placed_pod)
        self._nodes = ParsedObjects(node_info)
        self._profiles = ParsedObjects(processors_of)
        self._deployments = ParsedObjects(_parsed)
        self._refusals: dict[tuple[str, str, str, str], _Refusal] = {}

    def watches(self) -> Iterable[Watch]:
        """Pods and nodes whole; profiles, claims and volumes because they can make a place of one that was none."""
        yield Watch(resource=POD, keys=_of_pod, index_labels=(LABEL_COMPONENT, LABEL_DEPLOYMENT))
        for resource in (NODE, ACCELERATOR_PROFILE, PVC, PV):
            yield Watch(resource=resource, keys=lambda _: (KEY,))
        yield Watch(resource=MODEL_DEPLOYMENT, keys=lambda _: (KEY,))

    def observe(self, store: StoreView, key: Key) -> ObservedCluster | None:
        """The snapshot; None while no pod waits for a place and none was refused its own."""
        models = store.labelled(POD, LABEL_COMPONENT, COMPONENT_MODEL)
        if not any(_needs_a_look(pod) for pod in models):
            return None
        pods = [each for each in self._pods.of(store.all(POD)).values() if not each.over]
        nodes = {name: facts for (_, name), facts in sorted(self._nodes.of(store.all(NODE)).items())}
        processors = {name: found for (_, name), found in self._profiles.of(store.all(ACCELERATOR_PROFILE)).items()}
        occupants = tuple(each for each in pods if each.node and not each.refused)
        refused = tuple(each for each in pods if each.refused)
        self._remember(refused, occupants, nodes)
        gated = [each for each in pods if each.gated and not each.terminating]
        return ObservedCluster(
            gated=tuple(sorted(gated, key=lambda each: (each.created_at, each.namespace, each.name))),
            refused=refused,
            occupants=occupants,
            nodes=nodes,
            processors=processors,
            samples=dict(self._live.samples),
            deployments=self._deployments.of(store.all(MODEL_DEPLOYMENT)),
            ratios=_ratios(occupants, processors, {uid: got.state for uid, got in self._live.sidecars.items()}),
            claims=_claims(store),
            excluded=frozenset(self._refusals),
        )

    def decide(self, observed: ObservedCluster, now: float) -> Decision:
        """See `placing.decide`."""
        return placing.decide(observed, self._settings, now)

    def _remember(
        self, refused: Iterable[PlacedPod], occupants: Iterable[PlacedPod], nodes: Mapping[str, NodeInfo]
    ) -> None:
        """Adds the scheduler's refusals; forgets those whose node has changed or has more room than then."""
        known = {node for *_, node in self._refusals} | {pod.node for pod in refused}
        asked: dict[str, list[Amounts]] = defaultdict(list)
        for pod in occupants:
            if pod.node in known:
                asked[pod.node].append(pod.requests)
        used = {name: total(asked[name]) for name in known}
        for pod in refused:
            if pod.node in nodes:
                refusal = _Refusal(nodes[pod.node].fingerprint(), used[pod.node])
                self._refusals[pod.namespace, pod.deployment, pod.kind, pod.node] = refusal
        self._refusals = {
            where: refusal
            for where, refusal in self._refusals.items()
            if where[3] in nodes
            and nodes[where[3]].fingerprint() == refusal.fingerprint
            and all(used[where[3]].get(name, 0.0) >= value for name, value in refusal.used.items())
        }


def _of_pod(pod: Raw) -> Iterable[Key]:
    """Model pods concern placement, and so does every pod that gives its node back."""
    is_model = (pod["metadata"].get("labels") or {}).get(LABEL_COMPONENT) == COMPONENT_MODEL
    over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return (KEY,) if is_model or over or is_leaving(pod) else ()


def _needs_a_look(pod: Raw) -> bool:
    """Gated, or perhaps refused: a cheap test before everything is read."""
    spec = pod.get("spec") or {}
    if spec.get("schedulingGates"):
        return True
    if spec.get("nodeName"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each.get("reason") == "Unschedulable" for each in conditions)


def _parsed(raw: Raw) -> ModelDeployment | InvalidSpec:
    try:
        return model.parse(raw)
    except InvalidSpec as error:
        return error


def _ratios(
    occupants: Iterable[PlacedPod],
    processors: Mapping[str, Mapping[str, Processor]],
    states: Mapping[str, SidecarState],
) -> dict[tuple[str, str], float]:
    """Rows per benchmarked image of every deployment that works somewhere."""
    running: dict[tuple[str, str], list[tuple[SidecarState, float]]] = defaultdict(list)
    for pod in occupants:
        processor = processors.get(pod.node, {}).get(pod.kind)
        if pod.deployment and pod.uid in states and processor and processor.capacity:
            running[pod.namespace, pod.deployment].append((states[pod.uid], processor.capacity))
    ratios = {owner: ratio_of(found) for owner, found in running.items()}
    return {owner: ratio for owner, ratio in ratios.items() if ratio is not None}


def _claims(store: StoreView) -> Claims:
    """Where the volume of every claim can be reached; an unbound claim can go anywhere yet."""
    volumes = {each["metadata"]["name"]: each for each in store.all(PV)}
    return {
        (raw["metadata"].get("namespace", ""), raw["metadata"]["name"]): _reach(volumes, raw) for raw in store.all(PVC)
    }


def _reach(volumes: Mapping[str, Raw], claim: Raw) -> tuple[Raw, ...]:
    volume = volumes.get((claim.get("spec") or {}).get("volumeName", ""), {})
    required = ((volume.get("spec") or {}).get("nodeAffinity") or {}).get("required") or {}
    return tuple(required.get("nodeSelectorTerms") or ())
