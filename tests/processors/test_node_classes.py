"""One measurement per class of node: an estimate for its siblings, verified in idle time, few at once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, JOB, MODEL_DEPLOYMENT, NODE, POD, Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.processors.node_class import INSTANCE_TYPE, class_of
from batchwright_operator.processors.processor import Processor, processors_of
from batchwright_operator.processors.reconciler import AcceleratorProfileReconciler
from batchwright_operator.reconcile.decisions import Apply, Create, Delete, Key
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import BenchmarkResult, LoadTableRow
from batchwright_worker.api.names import ANNOTATION_NODE, LABEL_BENCHMARK_OPT_OUT
from tests.placement.placement_objects import NOW, Facts, deployment, node

LARGE = {INSTANCE_TYPE: "m7.large"}


class Cluster:
    """Several idle nodes, and what one reconciler makes of them."""

    def __init__(self, *nodes: Raw, **settings: Any) -> None:
        self.live, self.now = LiveState(), NOW
        objects = {NODE: list(nodes), MODEL_DEPLOYMENT: [deployment()], POD: [], ACCELERATOR_PROFILE: [], JOB: []}
        self.facts = Facts(objects)
        self.reconciler = AcceleratorProfileReconciler(Settings(**settings), self.live)
        self.sample()

    def sample(self, utilization: float = 0.05) -> None:
        for each in self.facts.all(NODE):
            sample = Sample(utilization=utilization, memory_utilization=0.1, taken_at=self.now)
            self.live.newest[each["metadata"]["name"], "cpu"] = sample

    def decide(self, name: str) -> int:
        """One pass over one node; how many actions it had."""
        observed = self.reconciler.observe(self.facts, Key(reconciler="profiles", name=name))
        assert observed is not None
        decision = self.reconciler.decide(observed, self.now)
        for action in decision.actions:
            self._perform(action)
        if decision.status is not None:
            profile = self.facts.get(ACCELERATOR_PROFILE, "", name)
            assert profile is not None
            self.facts.put(ACCELERATOR_PROFILE, {**profile, "status": decision.status.status})
        return len(decision.actions)

    def _perform(self, action: Any) -> None:
        match action:
            case Apply() | Create():
                name = action.body["metadata"]["name"]
                metadata = {"creationTimestamp": rfc3339(self.now), **action.body["metadata"], "uid": f"uid-{name}"}
                self.facts.put(action.resource, {**action.body, "metadata": metadata})
            case Delete():
                kept = [each for each in self.facts.all(action.resource) if each["metadata"]["name"] != action.name]
                self.facts.objects[action.resource] = kept

    def settle(self) -> None:
        """Passes over all nodes until none has an action."""
        while sum(self.decide(each["metadata"]["name"]) for each in self.facts.all(NODE)):
            pass

    def measured_now(self) -> list[str]:
        """Nodes with a benchmark that runs."""
        running = [each for each in self.facts.objects[JOB] if not each.get("status")]
        return sorted(each["metadata"]["annotations"][ANNOTATION_NODE] for each in running)

    def finish(self, capacity: float) -> None:
        """Every benchmark that runs ends with this result."""
        for job in [each for each in self.facts.objects[JOB] if not each.get("status")]:
            done = [{"type": "Complete", "status": "True", "lastTransitionTime": rfc3339(self.now)}]
            self.facts.put(JOB, {**job, "status": {"conditions": done}})
            rows = [LoadTableRow(batch_size=8, images_per_second=capacity, max_services=2)]
            result = BenchmarkResult(kind="cpu", product="Zeta", load_table=rows, capacity_images_per_second=capacity)
            message = msgspec.json.encode(result).decode()
            terminated = {"exitCode": 0, "message": message, "finishedAt": rfc3339(self.now)}
            name = f"pod-{job['metadata']['name']}"
            metadata = {
                **job["spec"]["template"]["metadata"],
                "name": name,
                "namespace": job["metadata"]["namespace"],
                "uid": f"uid-{name}",
                "ownerReferences": [{"uid": job["metadata"]["uid"], "controller": True}],
            }
            status = {"containerStatuses": [{"name": "benchmark", "state": {"terminated": terminated}}]}
            self.facts.put(POD, {"metadata": metadata, "spec": {}, "status": status})
        self.settle()

    def cpu(self, name: str) -> Processor:
        return processors_of(self.facts.get(ACCELERATOR_PROFILE, "", name))["cpu"]

    def condition(self, name: str) -> tuple[str, str]:
        profile = self.facts.get(ACCELERATOR_PROFILE, "", name)
        assert profile is not None
        found = find(profile["status"]["conditions"], "Benchmarked")
        return found["status"], found["reason"]


def alike(*names: str) -> list[Raw]:
    return [node(name, labels=LARGE) for name in names]


def test_of_a_class_one_node_is_measured_first_and_its_siblings_count_as_it_was() -> None:
    cluster = Cluster(*alike("a", "b", "c"))
    cluster.settle()
    assert cluster.measured_now() == ["a"]
    assert cluster.cpu("b").message == "a node of the same class is measured first"
    assert cluster.cpu("b").awaiting
    cluster.finish(100.0)
    found = cluster.cpu("c")
    assert (found.capacity, found.estimated_from, found.awaiting) == (100.0, "a", False)
    assert [row.images_per_second for row in found.load_table] == [100.0]
    assert cluster.condition("b") == ("True", "Estimated") or cluster.measured_now()


def test_estimates_are_verified_in_idle_time_and_the_own_measurement_counts() -> None:
    cluster = Cluster(*alike("a", "b"))
    cluster.settle()
    cluster.sample()
    cluster.finish(100.0)
    assert cluster.measured_now() == ["b"]
    cluster.finish(80.0)
    found = cluster.cpu("b")
    assert (found.capacity, found.estimated_from, found.reason) == (80.0, "", "Benchmarked")
    assert cluster.cpu("a").capacity == 100.0


def test_a_busy_node_is_placeable_by_its_class_at_once() -> None:
    cluster = Cluster(*alike("a"))
    cluster.settle()
    cluster.finish(100.0)
    cluster.facts.put(NODE, node("new", labels=LARGE))
    cluster.sample(0.9)
    cluster.settle()
    assert (cluster.cpu("new").capacity, cluster.cpu("new").reason) == (100.0, "Estimated")
    assert cluster.condition("new") == ("True", "Estimated")
    assert cluster.measured_now() == []


def test_a_new_node_of_a_thousand_needs_one_pass() -> None:
    names = [f"n{i:04}" for i in range(40)]
    cluster = Cluster(*alike(*names), benchmark_parallelism=4)
    cluster.settle()
    assert cluster.measured_now() == ["n0000"]
    cluster.finish(100.0)
    assert all(cluster.cpu(name).capacity == 100.0 for name in names)
    assert len(cluster.measured_now()) == 2, "half of the places are left to what is not known at all"


@pytest.mark.parametrize("parallelism", [1, 3])
def test_no_more_benchmarks_run_than_are_allowed_however_many_nodes_are_decided_at_once(parallelism: int) -> None:
    cluster = Cluster(*(node(name) for name in "abcdef"), benchmark_parallelism=parallelism)
    for name in "abcdef":
        cluster.decide(name)
    observed = [cluster.reconciler.observe(cluster.facts, Key(reconciler="profiles", name=name)) for name in "abcdef"]
    assert all(observed)
    made = 0
    for name in "abcdef":  # nothing that is decided here reaches the cache
        seen = cluster.reconciler.observe(cluster.facts, Key(reconciler="profiles", name=name))
        assert seen is not None
        made += sum(isinstance(each, Create) for each in cluster.reconciler.decide(seen, cluster.now).actions)
    assert made == parallelism


def test_the_median_of_the_measured_siblings_counts() -> None:
    cluster = Cluster(*alike("a", "b", "c"))
    cluster.settle()
    for capacity in (100.0, 60.0, 90.0):
        cluster.sample()
        cluster.finish(capacity)
    cluster.facts.put(NODE, node("new", labels=LARGE))
    cluster.settle()
    assert cluster.cpu("new").estimated_from in ("a", "b", "c")
    assert cluster.cpu("new").capacity == sorted(cluster.cpu(name).capacity or 0.0 for name in "abc")[1]


def test_a_node_of_another_size_is_of_another_class_and_one_that_nothing_names_of_none() -> None:
    settings = Settings()
    one, other = class_of(node("a", labels=LARGE), "cpu", settings), class_of(node("b", labels=LARGE), "cpu", settings)
    assert one == other != ""
    assert class_of(node("c", labels=LARGE, cpu="8"), "cpu", settings) not in ("", one)
    assert class_of(node("d"), "cpu", settings) == ""
    own = Settings(benchmark_class_labels=["rack"])
    assert class_of(node("e", labels={"rack": "7"}), "cpu", own) != ""


def test_nodes_without_a_class_are_measured_each() -> None:
    cluster = Cluster(node("a"), node("b"))
    cluster.settle()
    assert cluster.measured_now() == ["a", "b"]


def test_an_opted_out_node_counts_as_its_class() -> None:
    cluster = Cluster(*alike("a"), node("quiet", labels=LARGE | {LABEL_BENCHMARK_OPT_OUT: "true"}))
    cluster.settle()
    cluster.finish(100.0)
    assert (cluster.cpu("quiet").capacity, cluster.cpu("quiet").estimated_from) == (100.0, "a")
    assert cluster.measured_now() == []


def test_siblings_are_looked_at_when_the_first_of_their_class_is_measured() -> None:
    cluster = Cluster(*alike("a", "b", "c"), node("other"))
    cluster.settle()
    (watch,) = [each for each in cluster.reconciler.watches() if each.resource == ACCELERATOR_PROFILE]
    profile = cluster.facts.get(ACCELERATOR_PROFILE, "", "a")
    assert profile is not None
    assert [key.name for key in watch.keys(profile)] == ["a"]
    entry = {**profile["status"]["processors"][0], "capacityImagesPerSecond": "100.0"}
    measured = {**profile, "status": {"processors": [entry]}}
    assert {key.name for key in watch.keys(measured)} == {"a", "b", "c"}
