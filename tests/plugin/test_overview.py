"""An overview of a cluster: objects and metrics -> what is shown, and what is found to be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from batchwright_operator.plugin.overview.cluster import overview
from batchwright_operator.plugin.overview.facts import ClusterFacts
from batchwright_worker.dashboard.overview import Overview, ranges
from tests.plugin.cluster_objects import (
    NOW,
    deployment,
    event,
    gauges,
    job,
    model_status,
    node,
    pod,
    processor,
    profile,
)


def seen(**more: Any) -> Overview:
    """Two nodes that are measured and half busy, and what a test adds."""
    facts: dict[str, Any] = {
        "nodes": [node("fast"), node("slow")],
        "profiles": [profile("fast", processor("cpu", 40.0)), profile("slow", processor("cpu", 20.0))],
        "gauges": gauges({("fast", "cpu"): (0.5, 0.2), ("slow", "cpu"): (0.3, 0.1)}),
    }
    return overview(ClusterFacts(title="test", now=NOW, **(facts | more)))


def found(view: Overview) -> list[tuple[str, str, str]]:
    return [(each.level, each.kind, each.reason) for each in view.findings]


def test_an_empty_cluster_is_idle_and_says_so() -> None:
    view = seen()
    assert (view.level, view.headline, found(view)) == ("idle", "Nothing is deployed yet", [])


def test_what_serves_is_well() -> None:
    view = seen(deployments=[deployment("ocr")], jobs=[job("pages", state="Completed", done=1000)])
    assert (view.level, view.headline, found(view)) == ("ok", "All is well", [])
    (served,) = view.deployments
    assert (served.ready, served.wanted) == (2, 2)
    assert [(each.name, each.batch_size, each.p95, each.target) for each in served.models] == [
        ("detector", 8, 60.0, 100.0),
        ("recognizer", 16, 60.0, 100.0),
    ]


def test_processors_have_their_load_table_and_live_load() -> None:
    fast = seen(pods=[pod("a", of="ocr", node="fast"), pod("b", of="ocr", node="fast")]).processors[0]
    assert (fast.id, fast.capacity, fast.utilization, fast.memory, fast.pods) == ("fast/cpu", 40.0, 0.5, 0.2, 2)
    assert fast.load_table[4] == (16, 40.0, 1)


def test_a_node_with_two_kinds_is_two_processors() -> None:
    view = seen(nodes=[node("fast", gpus=2)])
    assert [each.id for each in view.processors] == ["fast/cpu", "fast/nvidia.com/gpu"]


def test_pods_show_their_receipt() -> None:
    view = seen(deployments=[deployment("ocr")], pods=[pod("ocr-1", of="ocr", node="fast", load=0.4)])
    (placed,) = view.deployments[0].pods
    assert placed.receipt is not None
    assert (placed.node, placed.receipt.load, placed.receipt.terms["utilization"]) == ("fast", 0.4, 0.24)
    assert placed.receipt.runners_up == [("slow", "cpu", 0.62)]


def test_where_pods_may_not_be_listed_the_status_tells() -> None:
    told = deployment("ocr")
    told["status"]["replicaStatuses"] = [{"pod": "ocr-1", "node": "fast", "processor": "cpu", "ready": True}]
    told["status"]["placements"] = [{"pod": "ocr-1", "load": "0.40", "terms": {"memory": "0.10"}, "reason": "why"}]
    (placed,) = seen(deployments=[told]).deployments[0].pods
    assert placed.receipt is not None
    assert (placed.ready, placed.receipt.load, placed.receipt.reason) == (True, 0.4, "why")


STALLED = {
    "Ready": ("False", "ClaimNotFound", "0 of 2 replicas ready; create it"),
    "Stalled": ("True", "ClaimNotFound", ""),
}
LATE = {"LatencyTargetMet": ("False", "TargetMissed", "detector misses 100 ms")}
LOADING = {"Ready": ("False", "ModelLoading", "0 of 2 replicas ready; loading")}
NO_MODEL = {
    "WaitingForModels": ("True", "DeploymentMissing", "there is no ModelDeployment ocr; create it"),
}


@pytest.mark.parametrize(
    ("more", "wanted", "headline"),
    [
        ({"deployments": [deployment("ocr", ready=0, conditions=STALLED)]},
         [("error", "ModelDeployment", "ClaimNotFound")], "1 to act on"),
        ({"deployments": [deployment("ocr", conditions=LATE)]},
         [("warning", "ModelDeployment", "TargetMissed")], "1 to look at"),
        ({"deployments": [deployment("ocr", ready=0, conditions=LOADING)]},
         [("busy", "ModelDeployment", "ModelLoading")], "All is well, something is on its way"),
        ({"deployments": [deployment("ocr", replicas=0, ready=0)]}, [], "All is well"),
        ({"jobs": [job("pages", state="Failed")]}, [("error", "InferenceJob", "Failed")], "1 to act on"),
        ({"jobs": [job("pages", failed=3)]}, [("warning", "InferenceJob", "ItemsFailed")], "1 to look at"),
        ({"jobs": [job("pages", conditions=NO_MODEL)]},
         [("warning", "InferenceJob", "DeploymentMissing")], "1 to look at"),
        ({"nodes": [node("fast", ready="False", gpus=1)]}, [("error", "Node", "NodeNotReady")], "1 to act on"),
        ({"nodes": [node("fast", cordoned=True)]}, [("warning", "Node", "Cordoned")], "1 to look at"),
        ({"operator_missing": True}, [("error", "Operator", "NoLeader")], "1 to act on"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(more: dict[str, Any], wanted: list[tuple[str, str, str]], headline: str) -> None:
    view = seen(**more)
    assert found(view) == wanted
    assert view.headline == headline
    assert all(each.text and each.command for each in view.findings)


def test_an_overload_asks_for_replicas() -> None:
    slow = model_status("detector", p95=900)
    slow["tuning"]["heldBecause"] = "Overloaded"
    view = seen(deployments=[deployment("ocr", conditions=LATE, models=[slow])])
    assert view.findings[0].text == (
        "detector misses 100 ms; more is offered than any batch size serves: add replicas, or let an autoscaler do it"
    )


def test_a_hundred_pods_that_wait_for_the_same_are_one_finding() -> None:
    why = "NoFittingProcessor: 2 nodes are full"
    pods = [pod(f"ocr-{n:03}", of="ocr", waiting=why, age_s=n) for n in range(150)]
    view = seen(pods=pods)
    assert [(each.name, each.reason) for each in view.findings] == [("150 pods", "NoFittingProcessor")]
    assert (len(view.waiting), view.waiting_left_out) == (100, 50)
    assert view.waiting[0].name == "ocr-149"


def test_processors_of_one_trouble_are_one_finding() -> None:
    failed = {
        "reason": "BenchmarkFailed",
        "message": "exit 1; see its log",
        "failures": 2,
        "capacityImagesPerSecond": "",
    }
    nodes = [f"n{n}" for n in range(20)]
    view = seen(
        nodes=[node(name) for name in nodes], profiles=[profile(name, processor("cpu", 1.0) | failed) for name in nodes]
    )
    (finding,) = view.findings
    assert (finding.name, finding.text) == ("20 processors", "n0/cpu, n1/cpu, and 18 more: exit 1; see its log")


def test_samples_that_are_old_are_found() -> None:
    old = gauges({("fast", "cpu"): (0.5, 0.2)}, now=NOW - 300)
    assert found(seen(gauges=old)) == [("warning", "Processor", "OldSamples")]


def test_live_values_of_a_deployment_are_the_operators() -> None:
    labels = {"namespace": "default", "name": "ocr"}
    live = {
        "batchwright_modeldeployment_queue_length": [(labels, 7.0)],
        "batchwright_modeldeployment_latency_p95_seconds": [(labels, 0.25)],
    }
    (served,) = seen(deployments=[deployment("ocr")], gauges=live).deployments
    assert (served.live_queue, served.live_p95, served.live_throughput) == (7.0, 250.0, None)


def test_jobs_that_run_come_first_and_have_shards() -> None:
    view = seen(jobs=[job("old", state="Completed", done=1000), job("new")])
    assert [each.name for each in view.jobs] == ["new", "old"]
    running = view.jobs[0]
    assert (running.shards, running.shards_done, running.rate, running.eta_s) == (20, [(0, 5)], 1.7, 388.0)


def test_changes_are_the_events_newest_first() -> None:
    view = seen(
        events=[event("ocr", "LatencyBelowTarget", "batch size 4 -> 8", ago=50), event("ocr", "Late", "x", ago=5)]
    )
    assert [(each.about, each.reason) for each in view.changes] == [
        ("default/ocr", "Late"),
        ("default/ocr", "LatencyBelowTarget"),
    ]


def test_strange_objects_are_shown_as_far_as_they_can_be_read() -> None:
    odd = deployment("odd")
    odd["status"]["models"] = [{"name": "detector", "batchSize": "many", "latencyMilliseconds": {"p95": None}}]
    new = {"metadata": {"name": "new", "namespace": "default"}, "spec": {"models": [{"name": "a"}]}}
    view = seen(deployments=[odd, new], jobs=[{"metadata": {"name": "new", "namespace": "default"}}])
    assert view.deployments[1].models[0].batch_size is None
    assert {each.reason for each in view.deployments} == {"NotSeenYet", "Available"}
    assert view.jobs[0].reason == "NotSeenYet"


@pytest.mark.parametrize(
    ("text", "wanted"), [("", []), ("3", [(3, 3)]), ("0-2,5", [(0, 2), (5, 5)]), ("x,1-y,4-4", [(4, 4)])]
)
def test_indexes_are_read_as_kubernetes_writes_them(text: str, wanted: list[tuple[int, int]]) -> None:
    assert ranges(text) == wanted
