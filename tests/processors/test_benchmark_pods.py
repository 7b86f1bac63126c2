"""Where benchmarks run, and with what: the administrator's settings, and nodes that keep pods away."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, JOB, NODE, POD, Raw
from batchwright_operator.processors.benchmark_jobs import job
from batchwright_operator.reconcile.decisions import Delete
from batchwright_operator.settings import BenchmarkPod, Settings
from tests.placement.placement_objects import node
from tests.processors.test_profiles import World, benchmarked

TAINT = {"key": "team", "value": "x", "effect": "NoSchedule"}


def template(settings: Settings, kind: str = "cpu") -> Raw:
    found: Raw = job(node("n"), kind, "digest", settings)["spec"]["template"]["spec"]
    return found


def test_benchmark_pods_tolerate_nothing_by_default() -> None:
    assert "tolerations" not in template(Settings())


def test_settings_say_what_benchmark_pods_of_a_kind_need() -> None:
    gpu = BenchmarkPod(
        accelerator="nvidia.com/gpu",
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}],
        node_selector={"pool": "gpu"},
        runtime_class_name="nvidia",
        image_pull_secrets=["registry"],
        priority_class_name="low",
    )
    settings = Settings(benchmark_pods=[gpu, BenchmarkPod(image_pull_secrets=["other"])])
    found = template(settings, "nvidia.com/gpu")
    assert found["runtimeClassName"] == "nvidia"
    assert found["imagePullSecrets"] == [{"name": "registry"}]
    assert found["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert found["nodeSelector"] == {"pool": "gpu"}
    assert found["priorityClassName"] == "low"
    assert template(settings)["imagePullSecrets"] == [{"name": "other"}]


def test_settings_are_read_as_an_administrator_writes_them() -> None:
    written = {"benchmarkPods": [{"accelerator": "*", "runtimeClassName": "nvidia"}], "benchmarkKinds": ["cpu"]}
    found = msgspec.convert(written, Settings)
    assert found.benchmark_pod_for("cpu").runtime_class_name == "nvidia"
    assert found.benchmark_kinds == ("cpu",)


@pytest.mark.parametrize(
    ("raw", "settings", "message"),
    [
        (node("n", taints=[TAINT]), {}, "taint team keeps pods away"),
        (node("n"), {"benchmark_kinds": ("nvidia.com/*",)}, "benchmarkKinds does not name it"),
        (node("n"), {"benchmark_pods": [BenchmarkPod(node_selector={"pool": "a"})]}, "nodeSelector of benchmarkPods"),
        (node("n", labels={"kubernetes.io/os": "windows"}), {}, "the node is windows"),
        (node("n", labels={"kubernetes.io/arch": "s390x"}), {}, "the node is s390x"),
        (node("n", labels={"kubernetes.io/arch": "amd64"}), {"image_architectures": ["arm64"]}, "the node is amd64"),
    ],
)
def test_a_node_that_keeps_benchmarks_away_is_not_measured_and_waits_for_nothing(
    raw: Raw, settings: dict[str, Any], message: str
) -> None:
    world = World(raw, Settings(**settings))
    world.settle()
    assert world.facts.objects[JOB] == []
    assert (world.processor().reason, world.processor().awaiting) == ("NotMeasured", False)
    assert message in world.processor().message
    assert world.condition("Benchmarked") == ("False", "NotMeasured")


@pytest.mark.parametrize(
    ("raw", "settings"),
    [
        (node("n", taints=[TAINT]), {"benchmark_pods": [BenchmarkPod(tolerations=[{"operator": "Exists"}])]}),
        (node("n", taints=[{**TAINT, "effect": "PreferNoSchedule"}]), {}),
        (node("n", labels={"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}),
         {"image_architectures": ["amd64", "arm64"]}),
    ],
)  # fmt: skip
def test_other_nodes_are_measured(raw: Raw, settings: dict[str, Any]) -> None:
    world = World(raw, Settings(**settings))
    world.settle()
    assert len(world.facts.objects[JOB]) == 1


def test_a_taint_that_comes_takes_no_measurement_away() -> None:
    world = benchmarked()
    world.facts.put(NODE, node("n", cpu="500m", taints=[TAINT]))
    assert world.settle().actions == ()
    assert (world.processor().reason, world.processor().capacity) == ("Benchmarked", 5.43)


def test_a_node_made_anew_under_the_same_name_is_a_new_node() -> None:
    world = benchmarked()
    world.facts.objects[JOB] = world.facts.objects[POD] = []
    new = node("n", cpu="500m")
    new["metadata"]["uid"] = "uid-of-the-new-machine"
    world.facts.put(NODE, new)
    (deleted,) = world.decide().actions
    assert isinstance(deleted, Delete)
    assert deleted.uid == "uid-n"
    world.settle()
    assert world.profile["metadata"]["ownerReferences"][0]["uid"] == "uid-of-the-new-machine"
    assert (world.processor().capacity, len(world.facts.objects[JOB])) == (None, 1)


def test_a_benchmark_of_the_machine_that_had_the_name_before_is_not_taken_for_the_new_ones() -> None:
    world = World()
    world.settle()
    world.finish()
    new = node("n", cpu="500m")
    new["metadata"]["uid"] = "uid-of-the-new-machine"
    world.facts.put(NODE, new)
    world.facts.objects[ACCELERATOR_PROFILE] = []
    world.decide()
    decision = world.decide()
    assert [type(each) for each in decision.actions] == [Delete]
    assert world.processor().capacity is None


def test_a_profile_that_is_somebody_elses_is_left_alone() -> None:
    world = World()
    owner = {"kind": "Inventory", "name": "x", "uid": "u", "controller": True}
    world.facts.put(ACCELERATOR_PROFILE, {"metadata": {"name": "n", "uid": "p", "ownerReferences": [owner]}})
    decision = world.decide()
    assert (decision.actions, decision.status) == ((), None)


def test_a_benchmark_job_is_controlled_by_its_node() -> None:
    (owner,) = job(node("n"), "cpu", "digest", Settings())["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["controller"]) == ("Node", True)
