"""The profiles domain: an AcceleratorProfile per node, benchmarks where they are due, results into the status.

Method A1 as a state machine that is read from the cluster on every pass: a processor is settled when
`benchmarkedAs` equals the digest of what it is now; otherwise its Job is looked at, or made when the processor is idle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from batchwright_operator.kube.conditions import find, holds
from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, JOB, NODE, POD, Raw
from batchwright_operator.kube.quantities import requests_of
from batchwright_operator.kube.times import unix
from batchwright_operator.processors import benchmark_jobs as benchmarks
from batchwright_operator.processors import processor as processors
from batchwright_operator.processors import status as profile_status
from batchwright_operator.processors.benchmark_jobs import BenchmarkFailure, Lost, Running, outcome
from batchwright_operator.processors.nodes import NodeInfo, node_info
from batchwright_operator.processors.processor import Processor, kinds_on, processors_of
from batchwright_operator.reconcile.decisions import Action, Apply, Create, Decision, Delete, Event, Key, StatusWrite
from batchwright_operator.reconcile.interfaces import StoreView, Watch
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import (
    ANNOTATION_KIND,
    ANNOTATION_NODE,
    API_VERSION,
    COMPONENT_MODEL,
    KIND_CPU,
    LABEL_BENCHMARK,
    LABEL_COMPONENT,
)

LOOK_AGAIN_S: Final = 5.0
"""While a processor waits to become idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedNode:
    """All facts about one node."""

    node: Raw
    profile: Raw | None
    jobs: Mapping[str, Raw] = field(default_factory=dict)
    """Kind -> benchmark Job of this node."""
    pods: Mapping[str, Sequence[Raw]] = field(default_factory=dict)
    """Kind -> pods of that Job."""
    samples: Mapping[str, Sample] = field(default_factory=dict)
    models: Mapping[str, float] = field(default_factory=dict)
    """Kind -> devices (or pods, for cpu) that model pods hold here."""
    elsewhere: int = 0
    """Benchmarks that run on other nodes."""


class AcceleratorProfileReconciler:
    """Implements domain.Domain; its keys are the nodes."""

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

    def _named(self, obj: Raw) -> Iterable[Key]:
        return (Key(reconciler=self.name, name=obj["metadata"]["name"]),)

    def _of_benchmark(self, obj: Raw) -> Iterable[Key]:
        if (obj["metadata"].get("labels") or {}).get(LABEL_BENCHMARK) != "true":
            return ()
        node = (obj["metadata"].get("annotations") or {}).get(ANNOTATION_NODE)
        return (Key(reconciler=self.name, name=node),) if node else ()

    def observe(self, store: StoreView, key: Key) -> ObservedNode | None:
        """The node and what concerns it; None when there is no such node (its profile goes with it)."""
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
            samples={kind: sample for (name, kind), sample in self._live.samples.items() if name == key.name},
            models=_models_on(store, key.name),
            elsewhere=sum(not _over(each) for each in all_jobs if _node_of(each) != key.name),
        )

    def decide(self, observed: ObservedNode, now: float) -> Decision:
        """The profile object, then per processor what its state and its Job ask for."""
        return _NodePass(observed, self._settings, now).run()


class _NodePass:
    """One decision about one node."""

    def __init__(self, observed: ObservedNode, settings: Settings, now: float) -> None:
        self.observed, self.settings, self.now = observed, settings, now
        self.facts: NodeInfo = node_info(observed.node)
        self.actions: list[Action] = []
        self.events: list[Event] = []
        self.wake_s: float | None = None
        self.busy = any(not _over(each) for each in observed.jobs.values())

    def run(self) -> Decision:
        profile = self.observed.profile
        if profile is None or not _owned_by_node(profile, self.observed.node):
            self.actions.append(Apply(resource=ACCELERATOR_PROFILE, body=_profile(self.observed.node)))
        if profile is None:
            return Decision(actions=tuple(self.actions))
        known = processors_of(profile)
        found = [self._processor(kind, known.get(kind, Processor(kind=kind))) for kind in kinds_on(self.observed.node)]
        capacities = {kind: each.capacity for kind, each in known.items()}
        view = profile_status.View(
            profile=profile, processors=found, before=capacities, samples=self.observed.samples, now=self.now,
            stale_s=self.settings.sample_stale_seconds,
        )  # fmt: skip
        status = profile_status.render(view)
        self._wake(profile_status.next_change_s(view))
        return Decision(
            actions=tuple(self.actions),
            status=StatusWrite(resource=ACCELERATOR_PROFILE, regarding=profile, status=status),
            events=tuple(self.events),
            requeue_after_s=self.wake_s,
        )

    def _processor(self, kind: str, known: Processor) -> Processor:
        """What the profile is to say of this processor, and the actions on the way."""
        measures = benchmarks.digest(self.observed.node, kind, self.observed.profile, self.settings)
        job = self.observed.jobs.get(kind)
        if known.benchmarked_as == measures:
            return known
        if self.facts.opted_out:
            return replace(known, reason=processors.OPTED_OUT, message="the node's label opts out of benchmarks")
        if job is None:
            return self._due(kind, known, measures)
        if job["metadata"]["annotations"].get(benchmarks.ANNOTATION_DIGEST) != measures:
            self._delete(job)
            return self._awaiting(known, "an older benchmark is cleared away")
        return self._job(kind, known, measures, job)

    def _job(self, kind: str, known: Processor, measures: str, job: Raw) -> Processor:
        pods = self.observed.pods.get(kind, ())
        match outcome(job, pods):
            case Running(problem=problem):
                return replace(known, reason=processors.RUNNING, message=problem or "the benchmark runs")
            case Lost():
                self._delete(job)
                return self._awaiting(known, "the benchmark's result was lost; it runs again")
            case BenchmarkFailure(reason=reason, message=message):
                self._tell(reason, f"{kind}: {message}", warning=True)
                return replace(known, reason=reason, message=message, benchmarked_as=measures)
            case result:
                new = processors.measured(kind, result)
                before = "" if known.capacity is None else f" (before: {processors.decimal(known.capacity)})"
                rate = processors.decimal(result.capacity_images_per_second)
                self._tell(processors.BENCHMARKED, f"{kind}: {rate} images/s{before}")
                return replace(
                    new,
                    runtime_image=benchmarks.image_of(kind, self.settings),
                    benchmarked_time=benchmarks.ended_at(job, pods, self.now),
                    benchmarked_as=measures,
                )

    def _due(self, kind: str, known: Processor, measures: str) -> Processor:
        """No Job yet: make one if the processor is idle, wait otherwise, but not for ever."""
        obstacle = self._obstacle(kind)
        if obstacle:
            self._wake(LOOK_AGAIN_S if self.facts.ready else None)
            return self._awaiting(known, obstacle)
        self.busy = True
        self.actions.append(
            Create(resource=JOB, body=benchmarks.job(self.observed.node, kind, measures, self.settings))
        )
        self._tell("BenchmarkStarted", f"{kind}: measuring with {benchmarks.image_of(kind, self.settings)}")
        return replace(known, reason=processors.RUNNING, message="the benchmark starts")

    def _obstacle(self, kind: str) -> str:
        """Why a benchmark of this kind must not start now; empty: it may. No numbers: it goes into the status."""
        held = self.observed.models.get(kind, 0.0)
        sample = self.observed.samples.get(kind)
        known = sample is not None and self.now - sample.taken_at <= self.settings.sample_stale_seconds
        busy = sample is not None and known and sample.utilization >= self.settings.benchmark_idle_threshold
        obstacles = {
            "the node is not ready, or cordoned": not self.facts.ready or self.facts.cordoned,
            "another benchmark runs on the node": self.busy,
            "benchmarks run on other nodes (benchmarkParallelism)": self.observed.elsewhere
            >= self.settings.benchmark_parallelism,
            "no device is free": kind != KIND_CPU and held >= self.facts.allocatable.get(kind, 0.0),
            "models run on it and its utilization is not known": held > 0 and not known,
            "it is busy": busy,
        }
        return next((words for words, holds_now in obstacles.items() if holds_now), "")

    def _awaiting(self, known: Processor, why: str) -> Processor:
        """Waiting, or (first benchmark only, after the longest wait) unbenchmarked and placeable meanwhile."""
        if known.capacity is not None:
            return replace(known, reason=processors.AWAITING, message=f"to be measured again: {why}")
        benchmarked = find((self.observed.profile or {}).get("status", {}).get("conditions"), "Benchmarked")
        since = unix(benchmarked.get("lastTransitionTime"))
        waited_s = self.now - since if since is not None else 0.0
        if known.reason == processors.NOT_IDLE or waited_s > self.settings.benchmark_idle_wait_seconds:
            words = f"never idle for a benchmark ({why}); placeable by utilization alone meanwhile"
            return replace(known, reason=processors.NOT_IDLE, message=words)
        return replace(known, reason=processors.AWAITING, message=why)

    def _delete(self, job: Raw) -> None:
        self._wake(LOOK_AGAIN_S)
        if not is_leaving(job):
            self.actions.append(Delete.of(JOB, job))

    def _tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        assert self.observed.profile is not None
        self.events.append(
            Event(
                regarding=self.observed.profile,
                reason=reason,
                message=message,
                type="Warning" if warning else "Normal",
                action="Benchmark",
            )
        )

    def _wake(self, after_s: float | None) -> None:
        if after_s is not None:
            self.wake_s = after_s if self.wake_s is None else min(self.wake_s, after_s)


def _profile(node: Raw) -> Raw:
    """The object itself; it goes when its node goes."""
    metadata = node["metadata"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": API_VERSION,
        "kind": ACCELERATOR_PROFILE.kind,
        "metadata": {"name": metadata["name"], "ownerReferences": [owner]},
    }


def _owned_by_node(profile: Raw, node: Raw) -> bool:
    owners = profile["metadata"].get("ownerReferences") or ()
    return any(each.get("uid") == node["metadata"]["uid"] for each in owners)


def _over(job: Raw) -> bool:
    conditions = (job.get("status") or {}).get("conditions")
    return holds(conditions, "Complete") or holds(conditions, "Failed")


def _owned_by(pod: Raw, job: Raw | None) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    return job is not None and any(each.get("uid") == job["metadata"]["uid"] for each in owners)


def _node_of(obj: Raw) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(ANNOTATION_NODE, ""))


def _kind_of(obj: Raw) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(ANNOTATION_KIND, ""))


def _models_on(store: StoreView, node: str) -> dict[str, float]:
    held: dict[str, float] = {}
    for pod in store.labelled(POD, LABEL_COMPONENT, COMPONENT_MODEL):
        spec = pod.get("spec") or {}
        if spec.get("nodeName") == node and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            kind = _kind_of(pod) or KIND_CPU
            held[kind] = held.get(kind, 0.0) + (1.0 if kind == KIND_CPU else requests_of(spec).get(kind, 1.0))
    return held
