"""Reconciler of AcceleratorProfiles: one per node; facts come from the cache and `LiveState`, `plan` decides."""

from __future__ import annotations

from collections.abc import Iterable

from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, JOB, MODEL_DEPLOYMENT, NODE, POD, Raw
from batchwright_operator.kube.quantities import requests_of
from batchwright_operator.pods.lifecycle import is_over
from batchwright_operator.pods.owner_chain import OwnerChains, chain_watches
from batchwright_operator.processors import plan
from batchwright_operator.processors.benchmark_outcome import is_finished
from batchwright_operator.processors.plan import ObservedNode
from batchwright_operator.reconcile.decisions import Decision, Key
from batchwright_operator.reconcile.interfaces import StoreView, Watch
from batchwright_operator.reconcile.keys import no_keys
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import (
    ANNOTATION_KIND,
    ANNOTATION_NODE,
    COMPONENT_MODEL,
    KIND_CPU,
    LABEL_BENCHMARK,
    LABEL_COMPONENT,
)


class AcceleratorProfileReconciler:
    """The `reconcile.interfaces.Reconciler` of AcceleratorProfiles; its keys are the nodes."""

    name = "profiles"

    def __init__(self, settings: Settings, live: LiveState) -> None:
        self._settings, self._live = settings, live

    def watches(self) -> Iterable[Watch]:
        """Nodes, their profiles, benchmark Jobs and their pods."""
        yield Watch(resource=NODE, keys=self._named)
        yield Watch(resource=ACCELERATOR_PROFILE, keys=self._named)
        yield Watch(
            resource=JOB, keys=self._of_benchmark, label_selector=f"{LABEL_BENCHMARK}=true",
            index_labels=(LABEL_BENCHMARK,),
        )  # fmt: skip
        yield Watch(resource=POD, keys=self._of_benchmark, index_labels=(LABEL_BENCHMARK, LABEL_COMPONENT))
        yield from chain_watches(no_keys)
        yield Watch(resource=MODEL_DEPLOYMENT, keys=no_keys)

    def _named(self, obj: Raw) -> Iterable[Key]:
        return (Key(reconciler=self.name, name=obj["metadata"]["name"]),)

    def _of_benchmark(self, obj: Raw) -> Iterable[Key]:
        if (obj["metadata"].get("labels") or {}).get(LABEL_BENCHMARK) != "true":
            return ()
        node = (obj["metadata"].get("annotations") or {}).get(ANNOTATION_NODE)
        return (Key(reconciler=self.name, name=node),) if node else ()

    def observe(self, store: StoreView, key: Key) -> ObservedNode | None:
        """The node and what concerns it; None when there is no such node (its profile is deleted with it)."""
        node = store.get(NODE, "", key.name)
        if node is None or is_leaving(node):
            return None
        namespace = self._settings.operator_namespace
        all_jobs = store.labelled(JOB, LABEL_BENCHMARK, "true", namespace=namespace)
        jobs = {_kind_of(each): each for each in all_jobs if _node_of(each) == key.name}
        pods: dict[str, list[Raw]] = {}
        if jobs:
            for pod in store.labelled(POD, LABEL_BENCHMARK, "true", namespace=namespace):
                if _node_of(pod) == key.name and _owned_by(pod, jobs.get(_kind_of(pod))):
                    pods.setdefault(_kind_of(pod), []).append(pod)
        return ObservedNode(
            node=node,
            profile=store.get(ACCELERATOR_PROFILE, "", key.name),
            jobs=jobs,
            pods=pods,
            samples={kind: sample for (name, kind), sample in self._live.newest.items() if name == key.name},
            used_by_models=_used_by_models(store, key.name),
            benchmarks_elsewhere=sum(not is_finished(each) for each in all_jobs if _node_of(each) != key.name),
        )

    def decide(self, observed: ObservedNode, now: float) -> Decision:
        """See `plan.decide`."""
        return plan.decide(observed, self._settings, now)


def _owned_by(pod: Raw, job: Raw | None) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    return job is not None and any(each.get("uid") == job["metadata"]["uid"] for each in owners)


def _node_of(obj: Raw) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(ANNOTATION_NODE, ""))


def _kind_of(obj: Raw) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(ANNOTATION_KIND, ""))


def _used_by_models(store: StoreView, node: str) -> dict[str, float]:
    used: dict[str, float] = {}
    chains = OwnerChains(store)
    for pod in store.labelled(POD, LABEL_COMPONENT, COMPONENT_MODEL):
        spec = pod.get("spec") or {}
        if spec.get("nodeName") == node and not is_over(pod) and chains.model_deployment_of(pod) is not None:
            kind = _kind_of(pod) or KIND_CPU
            used[kind] = used.get(kind, 0.0) + (1.0 if kind == KIND_CPU else requests_of(spec).get(kind, 1.0))
    return used
