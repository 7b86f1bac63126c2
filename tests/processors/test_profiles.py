"""Profiles as a table: node, profile, benchmark Jobs, samples -> actions, status, Events."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, JOB, MODEL_DEPLOYMENT, NODE, POD, Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.processors.benchmark_jobs import ANNOTATION_DIGEST, digest
from batchwright_operator.processors.processor import processors_of
from batchwright_operator.processors.reconciler import AcceleratorProfileReconciler
from batchwright_operator.reconcile.decisions import Apply, Create, Decision, Delete, Key
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.settings import RuntimeEntry, Settings
from batchwright_worker.api.messages import BenchmarkResult, LoadTableRow
from batchwright_worker.api.names import (
    ANNOTATION_EMULATED_DEVICE,
    ANNOTATION_KIND,
    ANNOTATION_NODE,
    ANNOTATION_REBENCHMARK,
    KIND_EMULATED,
    LABEL_BENCHMARK_OPT_OUT,
)
from tests.placement.placement_objects import NOW, Facts, deployment, forged, node, pod

GOOD = BenchmarkResult(
    kind="cpu",
    product="Zeta 9",
    runtime_version="onnxruntime 1",
    load_table=[
        LoadTableRow(batch_size=1, images_per_second=4.0, max_services=2),
        LoadTableRow(batch_size=2, images_per_second=5.4321, max_services=4),
    ],
    capacity_images_per_second=5.4321,
    seconds=30.0,
)


class World:
    """One node called n, and what the reconciler made of it."""

    def __init__(self, raw: Raw | None = None, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.live = LiveState()
        objects = {NODE: [raw or node("n", cpu="500m")], MODEL_DEPLOYMENT: [deployment()], POD: []}
        self.facts = Facts({**objects, ACCELERATOR_PROFILE: [], JOB: []})
        self.reconciler = AcceleratorProfileReconciler(self.settings, self.live)
        self.now = NOW
        self.sample(0.05)

    def sample(self, utilization: float, kind: str = "cpu", age_s: float = 1.0) -> None:
        self.live.newest["n", kind] = Sample(utilization=utilization, memory_utilization=0.1, taken_at=self.now - age_s)

    def decide(self) -> Decision:
        """One pass, and what the API server makes of it."""
        observed = self.reconciler.observe(self.facts, Key(reconciler="profiles", name="n"))
        assert observed is not None
        decision = self.reconciler.decide(observed, self.now)
        for action in decision.actions:
            self._perform(action)
        if decision.status:
            profile = self.profile
            self.facts.put(ACCELERATOR_PROFILE, {**profile, "status": decision.status.status})
        return decision

    def _perform(self, action: Any) -> None:
        match action:
            case Apply() | Create():
                name, made = action.body["metadata"]["name"], rfc3339(self.now)
                metadata = {"creationTimestamp": made, **action.body["metadata"], "uid": f"uid-{name}", "generation": 1}
                self.facts.put(action.resource, {**action.body, "metadata": metadata})
            case Delete():
                kept = [each for each in self.facts.all(action.resource) if each["metadata"]["name"] != action.name]
                self.facts.objects[action.resource] = kept

    def settle(self) -> Decision:
        """Passes until there are no actions."""
        while True:
            decision = self.decide()
            if not decision.actions:
                return decision

    @property
    def profile(self) -> Raw:
        found = self.facts.get(ACCELERATOR_PROFILE, "", "n")
        assert found is not None
        return found

    @property
    def job(self) -> Raw:
        (found,) = self.facts.objects[JOB]
        return found

    def processor(self, kind: str = "cpu") -> Any:
        return processors_of(self.profile)[kind]

    def condition(self, kind: str) -> tuple[str, str]:
        found = find(self.profile["status"]["conditions"], kind)
        return found["status"], found["reason"]

    def job_of(self, kind: str) -> Raw:
        (found,) = (
            each for each in self.facts.objects[JOB] if each["metadata"]["annotations"][ANNOTATION_KIND] == kind
        )
        return found

    def finish(self, result: BenchmarkResult | None = GOOD, *, failed: str = "", state: Raw | None = None) -> None:
        """The Job's pod ends with this message or state, and the Job with this verdict."""
        message = msgspec.json.encode(result).decode() if result else ""
        terminated = {"exitCode": 0, "message": message, "finishedAt": rfc3339(NOW + 60), **(state or {})}
        verdict = {
            "type": "Failed" if failed else "Complete",
            "status": "True",
            "reason": failed,
            "lastTransitionTime": rfc3339(self.now),
        }
        self.facts.put(JOB, {**self.job, "status": {"conditions": [verdict]}})
        container = {"name": "benchmark", "state": {"terminated": terminated}}
        self.facts.put(POD, self.bench_pod({"containerStatuses": [container]}))

    def bench_pod(self, status: Raw) -> Raw:
        metadata = {
            "name": "bench-pod",
            "namespace": self.settings.operator_namespace,
            "uid": "uid-bench-pod",
            "labels": self.job["spec"]["template"]["metadata"]["labels"],
            "annotations": self.job["spec"]["template"]["metadata"]["annotations"],
            "ownerReferences": [{"uid": self.job["metadata"]["uid"], "controller": True}],
        }
        return {"metadata": metadata, "spec": {}, "status": status}


def benchmarked(**more: Any) -> World:
    world = World(**more)
    world.settle()
    world.finish()
    world.settle()
    return world


def test_first_visit_makes_the_profile_and_sets_all_conditions() -> None:
    world = World()
    (apply,) = world.decide().actions
    assert isinstance(apply, Apply)
    assert apply.body["metadata"]["ownerReferences"][0]["kind"] == "Node"
    world.decide()
    conditions = [each["type"] for each in world.profile["status"]["conditions"]]
    assert conditions == ["Benchmarked", "Fresh", "Degraded", "Schedulable"]
    assert world.condition("Benchmarked") == ("Unknown", "BenchmarkRunning")


def test_benchmark_job_is_pinned_restricted_and_small() -> None:
    world = World()
    world.settle()
    spec = world.job["spec"]
    template = spec["template"]["spec"]
    (container,) = template["containers"]
    terms = template["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]
    assert world.job["metadata"]["name"] == "bench-n-cpu"
    assert world.job["metadata"]["annotations"][ANNOTATION_NODE] == "n"
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (1, 600, 3600)
    assert template["securityContext"]["runAsNonRoot"] is True
    assert template["automountServiceAccountToken"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"] == {"requests": {"cpu": "100m", "memory": "256Mi"}}
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env["BATCHWRIGHT_CPU_MILLIS"] == "500"  # the node's, not the request's
    assert "--budget-seconds=120" in container["args"]


def test_result_goes_to_the_status_once() -> None:
    world = World()
    world.settle()
    world.finish()
    decision = world.decide()
    processor = world.processor()
    assert (processor.capacity, processor.product, processor.max_services) == (5.43, "Zeta 9", 4)
    assert world.profile["status"]["processors"][0]["loadTable"][1] == {
        "batchSize": 2, "imagesPerSecond": "5.43", "maxServices": 4,
    }  # fmt: skip
    assert processor.benchmarked_time == rfc3339(NOW + 60)
    assert world.condition("Benchmarked") == ("True", "Benchmarked")
    assert world.profile["status"]["summary"] == {"kinds": "cpu", "products": "Zeta 9", "imagesPerSecond": "5.43"}
    assert [(each.reason, each.message) for each in decision.events] == [("Benchmarked", "cpu: 5.43 images/s")]
    assert decision.counts == {'batchwright_benchmarks_total{kind="cpu",outcome="Benchmarked"}': 1}
    before = world.profile["status"]
    again = world.decide()
    assert (again.actions, again.events, world.profile["status"]) == ((), (), before)


def test_gone_job_changes_nothing_once_its_result_is_written() -> None:
    world = benchmarked()
    world.facts.objects[JOB] = []
    assert world.decide().actions == ()


@pytest.mark.parametrize(
    ("end", "reason", "message"),
    [
        ({"failed": "DeadlineExceeded", "result": None, "state": {"exitCode": 137}}, "BenchmarkTimedOut", "in time"),
        ({"failed": "BackoffLimitExceeded", "result": None, "state": {"exitCode": 137, "reason": "OOMKilled"}},
         "BenchmarkOutOfMemory", "killed for memory"),
        ({"failed": "BackoffLimitExceeded", "result": None, "state": {"exitCode": 139, "message": "Segfault"}},
         "BenchmarkFailed", "exit status 139: Segfault"),
        ({"failed": "PodFailurePolicy", "result": BenchmarkResult(kind="cpu", error="no device; request one")},
         "BenchmarkFailed", "no device; request one"),
    ],
)  # fmt: skip
def test_failures_are_reasons_and_the_node_is_placeable(end: dict[str, Any], reason: str, message: str) -> None:
    world = World()
    world.settle()
    world.finish(**end)
    decision = world.decide()
    assert (world.processor().reason, world.processor().awaiting) == (reason, False)
    assert world.condition("Benchmarked") == ("False", reason)
    assert message in find(world.profile["status"]["conditions"], "Benchmarked")["message"]
    assert [(each.reason, each.type) for each in decision.events] == [(reason, "Warning")]
    world.facts.objects[JOB] = []
    assert world.decide().actions == ()


def test_image_that_cannot_be_pulled_shows_while_it_waits_and_when_it_is_over() -> None:
    world = World()
    world.settle()
    waiting = {
        "name": "benchmark",
        "image": "nope:1",
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
    }
    stuck = world.bench_pod({"containerStatuses": [waiting]})
    world.facts.put(POD, stuck)
    world.decide()
    for part in ("image nope:1", "ImagePullBackOff: no such image", "correct the image in the operator's runtimeTable"):
        assert part in world.processor().message
    world.finish(None, failed="DeadlineExceeded")
    world.facts.put(POD, stuck)
    world.decide()
    assert world.processor().reason == "BenchmarkImageNotPullable"


def test_lost_result_is_measured_again() -> None:
    world = World()
    world.settle()
    first = world.job["metadata"]["annotations"][ANNOTATION_DIGEST]
    world.finish(None)
    deleted, *_ = world.decide().actions
    assert isinstance(deleted, Delete)
    world.settle()
    assert world.job["metadata"]["annotations"][ANNOTATION_DIGEST] == first


@pytest.mark.parametrize("change", ["annotation", "image", "hardware"])
def test_measured_again_when_something_changed_and_placeable_meanwhile(change: str) -> None:
    world = benchmarked()
    if change == "annotation":
        metadata = {**world.profile["metadata"], "annotations": {ANNOTATION_REBENCHMARK: "1"}}
        world.facts.put(ACCELERATOR_PROFILE, {**world.profile, "metadata": metadata})
    elif change == "image":
        world.reconciler = AcceleratorProfileReconciler(
            Settings(runtime_table=[RuntimeEntry(accelerator="cpu", image="new")]), world.live
        )
    else:
        world.facts.put(NODE, node("n", cpu="2"))
    kinds = [type(action) for action in (*world.decide().actions, *world.decide().actions)]
    assert kinds == [Delete, Create]
    assert (world.processor().reason, world.processor().capacity) == ("BenchmarkRunning", 5.43)
    assert not world.processor().awaiting
    assert world.condition("Benchmarked")[0] == "True"
    slower = msgspec.structs.replace(GOOD, capacity_images_per_second=2.0)
    world.finish(slower)
    decision = world.decide()
    assert decision.events[0].message == "cpu: 2.00 images/s (before: 5.43)"
    assert world.condition("Degraded") == ("True", "CapacityFell")
    world.decide()
    assert world.condition("Degraded") == ("True", "CapacityFell")  # until the next result


def test_only_an_idle_processor_is_measured_and_none_waits_forever() -> None:
    world = World()
    world.sample(0.8)
    decision = world.settle()
    assert world.facts.objects[JOB] == []
    assert (world.processor().reason, world.processor().message) == ("AwaitingBenchmark", "it is busy")
    assert (world.processor().awaiting, decision.requeue_after_s) == (True, 5.0)
    assert world.condition("Degraded") == ("Unknown", "NoMeasurement")
    world.now += 601
    world.sample(0.8)
    world.decide()
    assert (world.processor().reason, world.processor().awaiting) == ("NeverIdle", False)
    assert world.condition("Benchmarked") == ("False", "NeverIdle")
    world.sample(0.1)
    world.settle()
    assert len(world.facts.objects[JOB]) == 1


@pytest.mark.parametrize(("model_pods", "jobs"), [(0, 1), (1, 0)])
def test_without_samples_a_node_without_models_counts_as_idle(model_pods: int, jobs: int) -> None:
    world = World()
    world.live.newest.clear()
    for i in range(model_pods):
        world.facts.put(POD, pod(f"m{i}", nodeName="n", schedulingGates=[]))
    world.settle()
    assert len(world.facts.objects[JOB]) == jobs
    assert world.condition("Fresh") == ("False", "NoSamples")


def test_a_pod_that_only_says_that_it_is_a_model_pod_keeps_no_benchmark_away() -> None:
    world = World()
    world.live.newest.clear()
    world.facts.put(POD, forged("m", nodeName="n", schedulingGates=[]))
    world.settle()
    assert len(world.facts.objects[JOB]) == 1


def test_one_benchmark_at_a_time_per_node_and_few_in_the_cluster() -> None:
    raw = node("n", **{KIND_EMULATED: "1"})
    raw["metadata"]["annotations"] = {ANNOTATION_EMULATED_DEVICE: '{"fixedMicroseconds": 7}'}
    world = World(raw)
    world.sample(0.0, KIND_EMULATED)
    world.settle()
    assert [each["metadata"]["name"] for each in world.facts.objects[JOB]] == ["bench-n-cpu"]
    assert world.processor(KIND_EMULATED).message == "another benchmark runs on the node"
    world.finish()
    world.settle()
    second = next(each for each in world.facts.objects[JOB] if "emulated" in each["metadata"]["name"])
    (container,) = second["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {KIND_EMULATED: "1"}
    env = {each["name"]: each["value"] for each in container["env"]}
    assert '"fixedMicroseconds":7' in env["BATCHWRIGHT_EMULATED_DEVICE"]
    assert world.condition("Benchmarked")[0] == "Unknown"

    busy = World(settings=Settings(benchmark_parallelism=0))
    busy.settle()
    assert "benchmarkParallelism" in busy.processor().message


@pytest.mark.parametrize("raw", [node("n", ready=False), node("n", cordoned=True)])
def test_no_benchmark_on_nodes_that_take_no_pods(raw: Raw) -> None:
    world = World(raw)
    world.settle()
    assert world.facts.objects[JOB] == []


def test_opted_out_node_is_placeable_and_keeps_a_seeded_table() -> None:
    world = World(node("n", labels={LABEL_BENCHMARK_OPT_OUT: "true"}))
    world.settle()
    assert world.facts.objects[JOB] == []
    assert (world.processor().reason, world.processor().awaiting) == ("OptedOut", False)
    seeded = {"kind": "cpu", "capacityImagesPerSecond": "400", "loadTable": []}
    world.facts.put(ACCELERATOR_PROFILE, {**world.profile, "status": {"processors": [seeded]}})
    world.decide()
    assert world.processor().capacity == 400
    assert world.condition("Benchmarked")[0] == "True"


def test_stale_samples_show_when_they_become_stale() -> None:
    world = benchmarked(settings=Settings(spot_check_seconds=0))
    decision = world.decide()
    assert world.condition("Fresh") == ("True", "SamplesFresh")
    assert decision.requeue_after_s == pytest.approx(29.1)
    world.now += 40
    decision = world.decide()
    assert (world.condition("Fresh"), decision.requeue_after_s) == (("False", "SamplesStale"), None)


def test_no_node_no_profile() -> None:
    world = World()
    assert world.reconciler.observe(world.facts, Key(reconciler="profiles", name="gone")) is None


def test_digest_ignores_what_does_not_matter() -> None:
    plain, labelled = node("n"), node("n", labels={"team": "x"})
    settings = Settings()
    assert digest(plain, "cpu", None, settings) == digest(labelled, "cpu", None, settings)
