"""Reconciler of AcceleratorProfiles: one per node; facts come from the cache and `LiveState`, `plan` decides."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, JOB, MODEL_DEPLOYMENT, NODE, POD, Raw
from batchwright_operator.kube.quantities import requests_of, total
from batchwright_operator.pods.lifecycle import is_over
from batchwright_operator.pods.owner_chain import OwnerChains, chain_watches
from batchwright_operator.processors import plan
from batchwright_operator.processors.benchmark_jobs import ANNOTATION_CLASS
from batchwright_operator.processors.benchmark_outcome import is_finished
from batchwright_operator.processors.node_pass import ObservedNode
from batchwright_operator.processors.processor import Processor, kinds_on, processors_of
from batchwright_operator.processors.start import NodeUse
from batchwright_operator.reconcile.decisions import Create, Decision, Key
from batchwright_operator.reconcile.interfaces import StoreView, Watch
from batchwright_operator.reconcile.keys import no_keys
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.reconcile.parsed_objects import ParsedObjects
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import (
    ANNOTATION_KIND,
    ANNOTATION_NODE,
    KIND_CPU,
    LABEL_BENCHMARK,
)

STARTED_S: Final = 30.0
"""How long a benchmark that was decided on counts as running without being seen."""


class AcceleratorProfileReconciler:
    """The `reconcile.interfaces.Reconciler` of AcceleratorProfiles; its keys are the nodes."""

    name = "profiles"

    def __init__(self, settings: Settings, live: LiveState) -> None:
        self._settings, self._live = settings, live
        self._profiles = ParsedObjects(processors_of)
        self._started, self._classes = _StartedBenchmarks(), _Classes()

    def watches(self) -> Iterable[Watch]:
        """Nodes, their profiles, benchmark Jobs and their pods."""
        yield Watch(resource=NODE, keys=self._named)
        yield Watch(resource=ACCELERATOR_PROFILE, keys=self._with_siblings)
        yield Watch(
            resource=JOB, keys=self._of_benchmark, label_selector=f"{LABEL_BENCHMARK}=true",
            index_labels=(LABEL_BENCHMARK,),
        )  # fmt: skip
        yield Watch(resource=POD, keys=self._of_benchmark, index_labels=(LABEL_BENCHMARK,))
        yield from chain_watches(no_keys)
        yield Watch(resource=MODEL_DEPLOYMENT, keys=no_keys)

    def _named(self, obj: Raw) -> Iterable[Key]:
        return (Key(reconciler=self.name, name=obj["metadata"]["name"]),)

    def _with_siblings(self, profile: Raw) -> Iterable[Key]:
        """A profile's own node, and those that wait for a measurement of its class."""
        yield from self._named(profile)
        for node in self._classes.waiting_for(profile):
            yield Key(reconciler=self.name, name=node)

    def _of_benchmark(self, obj: Raw) -> Iterable[Key]:
        if (obj["metadata"].get("labels") or {}).get(LABEL_BENCHMARK) != "true":
            return ()
        node = (obj["metadata"].get("annotations") or {}).get(ANNOTATION_NODE)
        return (Key(reconciler=self.name, name=node),) if node else ()

    def observe(self, store: StoreView, key: Key) -> ObservedNode | None:
        """The node and what concerns it; None when there is no such node (its profile is deleted with it)."""
        node = store.get(NODE, "", key.name)
        if node is None or is_leaving(node):
            self._classes.forget(key.name)
            return None
        namespace = self._settings.operator_namespace
        all_jobs = store.labelled(JOB, LABEL_BENCHMARK, "true", namespace=namespace)
        jobs = {_kind_of(each): each for each in all_jobs if _node_of(each) == key.name}
        pods: dict[str, list[Raw]] = {}
        if jobs:
            for pod in store.labelled(POD, LABEL_BENCHMARK, "true", namespace=namespace):
                if _node_of(pod) == key.name and _owned_by(pod, jobs.get(_kind_of(pod))):
                    pods.setdefault(_kind_of(pod), []).append(pod)
        profile = store.get(ACCELERATOR_PROFILE, "", key.name)
        known = processors_of(profile)
        to_measure, to_estimate = plan.needs(node, profile, known, self._settings)
        may_measure = to_measure or self._settings.spot_check_seconds > 0
        elsewhere = [each for each in all_jobs if _node_of(each) != key.name and not is_finished(each)]
        started = self._started.elsewhere(key.name, {(_node_of(each), _kind_of(each)) for each in all_jobs})
        return ObservedNode(
            node=node,
            profile=profile,
            jobs=jobs,
            pods=pods,
            use=NodeUse(
                samples=self._samples(node),
                requested=_requested(store, key.name) if may_measure else {},
                serves=_served(store, key.name) if may_measure else frozenset(),
                elsewhere=len(elsewhere) + len(started),
            ),
            classes_elsewhere=frozenset({*map(_class_of, elsewhere), *started} - {""}),
            siblings=self._siblings(store) if to_estimate else {},
        )

    def _samples(self, node: Raw) -> dict[str, Sample]:
        found = ((kind, self._live.newest.get((node["metadata"]["name"], kind))) for kind in kinds_on(node))
        return {kind: sample for kind, sample in found if sample is not None}

    def _siblings(self, store: StoreView) -> Mapping[str, Mapping[str, Processor]]:
        return {name: found for (_, name), found in self._profiles.of(store.all(ACCELERATOR_PROFILE)).items()}

    def decide(self, observed: ObservedNode, now: float) -> Decision:
        """See `plan.decide`; what it starts counts at once, before the API server has answered."""
        decision = plan.decide(observed, self._settings, now)
        name = observed.node["metadata"]["name"]
        for action in decision.actions:
            if isinstance(action, Create):
                self._started.add(name, _kind_of(action.body), _class_of(action.body), now)
        self._started.expire(now)
        if decision.status is not None:
            self._classes.put(name, decision.status.status["processors"])
        return decision


class _StartedBenchmarks:
    """Benchmarks that were decided on a moment ago, and may not be in the cache yet: several nodes are decided at the
    same time, each of which would else take the same free place."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, str], tuple[float, str]] = {}

    def add(self, node: str, kind: str, node_class: str, now: float) -> None:
        self._at[node, kind] = (now, node_class)

    def expire(self, now: float) -> None:
        self._at = {which: (at, of) for which, (at, of) in self._at.items() if now - at < STARTED_S}

    def elsewhere(self, node: str, seen: Collection[tuple[str, str]]) -> list[str]:
        """Their classes (empty: not the first of one), on other nodes, but for those (node, kind) whose Job is seen."""
        return [of for which, (_, of) in self._at.items() if which[0] != node and which not in seen]


class _Classes:
    """Which nodes wait for a measurement of their class: those to look at when there is one."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[str]] = {}
        self._of: dict[str, set[str]] = {}

    def put(self, node: str, processors: Iterable[Raw]) -> None:
        self.forget(node)
        mine = {str(each.get("nodeClass", "")) for each in processors if "capacityImagesPerSecond" not in each} - {""}
        if mine:
            self._of[node] = mine
        for each in mine:
            self._waiting.setdefault(each, set()).add(node)

    def forget(self, node: str) -> None:
        for each in self._of.pop(node, ()):
            self._waiting[each].discard(node)
            if not self._waiting[each]:
                del self._waiting[each]

    def waiting_for(self, profile: Raw) -> set[str]:
        found = (profile.get("status") or {}).get("processors") or ()
        classes = {str(each.get("nodeClass", "")) for each in found if "capacityImagesPerSecond" in each}
        return {node for each in classes for node in self._waiting.get(each, ())}


def _owned_by(pod: Raw, job: Raw | None) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    return job is not None and any(each.get("uid") == job["metadata"]["uid"] for each in owners)


def _node_of(obj: Raw) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(ANNOTATION_NODE, ""))


def _kind_of(obj: Raw) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(ANNOTATION_KIND, ""))


def _class_of(job: Raw) -> str:
    return str((job["metadata"].get("annotations") or {}).get(ANNOTATION_CLASS, ""))


def _requested(store: StoreView, node: str) -> dict[str, float]:
    """What all pods of the node request, whoever's they are; benchmarks aside."""
    pods = (pod for pod in store.on_node(node) if not is_over(pod) and not _is_benchmark(pod))
    return total(requests_of(pod.get("spec") or {}) for pod in pods)


def _served(store: StoreView, node: str) -> frozenset[str]:
    chains = OwnerChains(store)
    models = (pod for pod in store.on_node(node) if not is_over(pod) and chains.model_deployment_of(pod) is not None)
    return frozenset(_kind_of(pod) or KIND_CPU for pod in models)


def _is_benchmark(pod: Raw) -> bool:
    return (pod["metadata"].get("labels") or {}).get(LABEL_BENCHMARK) == "true"
