"""Nodes with several devices, a change of accelerator, and what becomes of nodes: on a real API server with scheduler
and controller manager; kwok plays the kubelets."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchwright_operator.kube.conditions import find, holds
from batchwright_operator.kube.objects import Raw
from batchwright_worker.api.names import ANNOTATION_KIND, KIND_EMULATED, LABEL_BENCHMARK_OPT_OUT
from e2e.cluster import ApiError, ControlPlane, kwok
from tests.deployments.deployment_objects import emulated, model
from tests.reconcile.bed import Bed, prepare, wait

pytestmark = pytest.mark.apiserver

RECONCILERS = json.dumps(
    [
        "batchwright_operator.processors.reconciler:AcceleratorProfileReconciler",
        "batchwright_operator.placement.reconciler:PlacementReconciler",
        "batchwright_operator.deployments.reconciler:ModelDeploymentReconciler",
    ]
)
PODS = "/api/v1/namespaces/user/pods"
NODES = "/api/v1/nodes"
PROFILES = "/apis/batchwright.dev/v1alpha1/acceleratorprofiles"
DEPLOYMENTS = "/apis/batchwright.dev/v1alpha1/namespaces/user/modeldeployments"
REPLICATED = "/apis/apps/v1/namespaces/user/deployments"


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """With our CRDs and kwok."""
    with ControlPlane.start("devices", controller_manager_args=kwok.CONTROLLER_MANAGER_ARGS) as plane:
        prepare(plane, "user")
        kwok.start(plane)
        yield plane


@pytest.fixture
def cluster(plane: ControlPlane, tmp_path: Path) -> Iterator[Cluster]:
    """No nodes, no deployments."""
    cluster = Cluster(Bed(plane=plane, folder=tmp_path))
    yield cluster
    plane.api.delete(f"{DEPLOYMENTS}?propagationPolicy=Background")
    plane.api.delete(f"{REPLICATED}?propagationPolicy=Background")
    for path in (PODS, NODES, PROFILES):
        plane.api.delete(f"{path}?gracePeriodSeconds=0&propagationPolicy=Background")


class Cluster:
    """What these tests do to the cluster, and what they see."""

    def __init__(self, bed: Bed) -> None:
        self.bed, self.api = bed, bed.api

    def operator(self) -> contextlib.AbstractContextManager[Any]:
        return self.bed.operator(
            BATCHWRIGHT_RECONCILERS=RECONCILERS, BATCHWRIGHT_BACKGROUNDS="[]", BATCHWRIGHT_UNFIT_SECONDS="300"
        )

    def nodes(self, count: int, devices: int, *, prefix: str = "n", capacity: str = "400") -> list[str]:
        """Simulated nodes that are measured already."""
        names = [f"{prefix}-{number:04d}" for number in range(count)]
        for name in names:
            self._seed(name, capacity)
        return kwok.add_nodes(
            self.api, count, prefix=prefix, resources={KIND_EMULATED: str(devices)},
            labels={LABEL_BENCHMARK_OPT_OUT: "true"},
        )  # fmt: skip

    def _seed(self, name: str, capacity: str) -> None:
        row = {"batchSize": 8, "imagesPerSecond": capacity, "maxServices": 1}
        found = [
            {"kind": "cpu", "capacityImagesPerSecond": "20", "loadTable": [], "reason": "Benchmarked"},
            {"kind": KIND_EMULATED, "capacityImagesPerSecond": capacity, "loadTable": [row], "reason": "Benchmarked"},
        ]
        head = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "AcceleratorProfile", "metadata": {"name": name}}
        self.api.request("POST", PROFILES, head)
        self.api.patch(f"{PROFILES}/{name}/status", {"status": {"processors": found}})

    def deploy(self, replicas: int, *kinds: str, count: int = 1, **spec: Any) -> None:
        runtimes = [{"accelerator": kind, "count": 1 if kind == "cpu" else count} for kind in kinds]
        body = {"replicas": replicas, "models": [model("echo", *map(emulated, kinds))], "runtimes": runtimes, **spec}
        head = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "echo"}}
        self.api.request("POST", DEPLOYMENTS, {**head, "spec": body})

    def change(self, **spec: Any) -> None:
        self.api.patch(f"{DEPLOYMENTS}/echo", {"spec": spec})

    def pods(self) -> list[Raw]:
        """Those that are not on their way out."""
        return [each for each in self.api.get(PODS)["items"] if "deletionTimestamp" not in each["metadata"]]

    def ready(self) -> Counter[tuple[str, str]]:
        """(node, kind) -> pods that serve there."""
        ready = [each for each in self.pods() if holds(each["status"].get("conditions"), "Ready")]
        return Counter((each["spec"]["nodeName"], each["metadata"]["annotations"][ANNOTATION_KIND]) for each in ready)

    def by_kind(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for (_, kind), count in self.ready().items():
            found[kind] += count
        return found

    def schedulable(self, node: str) -> str:
        try:
            profile = self.api.get(f"{PROFILES}/{node}")
        except ApiError:
            return ""
        found = find((profile.get("status") or {}).get("conditions"), "Schedulable")
        return str(found.get("reason", ""))

    def until(self, met: Callable[[], bool], within_s: float = 120) -> None:
        wait(met, within_s, self._seen)

    def _seen(self) -> str:
        logs = [path.read_text()[-3000:] for path in self.bed.folder.glob("*.log")]
        return "\n".join([str(self.ready()), *logs])


def on_devices(names: list[str], each: int) -> dict[tuple[str, str], int]:
    return {(name, KIND_EMULATED): each for name in names}


def test_all_replicas_of_four_nodes_of_eight_devices_are_on_the_accelerator(cluster: Cluster) -> None:
    names = cluster.nodes(4, 8)
    with cluster.operator():
        cluster.until(lambda: all(cluster.schedulable(name) == "NodeReady" for name in names))
        cluster.deploy(32, "cpu", KIND_EMULATED)
        cluster.until(lambda: sum(cluster.ready().values()) == 32)
        assert dict(cluster.ready()) == on_devices(names, 8)
        slots = [cluster.api.get(f"{PROFILES}/{name}")["status"]["processors"][1]["slots"] for name in names]
        assert slots == [8, 8, 8, 8]


def test_replicas_of_two_devices_fill_the_nodes(cluster: Cluster) -> None:
    names = cluster.nodes(2, 8)
    with cluster.operator():
        cluster.until(lambda: all(cluster.schedulable(name) == "NodeReady" for name in names))
        cluster.deploy(8, "cpu", KIND_EMULATED, count=2)
        cluster.until(lambda: sum(cluster.ready().values()) == 8)
        assert dict(cluster.ready()) == on_devices(names, 4)


def test_a_change_of_accelerator_leaves_as_many_pods_serving_as_before(cluster: Cluster) -> None:
    cluster.nodes(2, 8)
    with cluster.operator():
        cluster.deploy(6, "cpu")
        cluster.until(lambda: cluster.by_kind() == {"cpu": 6})
        cluster.change(models=[model("echo", emulated())], runtimes=[{"accelerator": KIND_EMULATED}])
        fewest, until = 6, time.monotonic() + 120
        while cluster.by_kind() != {KIND_EMULATED: 6} and time.monotonic() < until:
            fewest = min(fewest, sum(cluster.ready().values()))
        assert cluster.by_kind() == {KIND_EMULATED: 6}
        assert fewest == 6
        cluster.until(lambda: len(cluster.api.get(REPLICATED)["items"]) == 1)


def test_cordon_and_drain(cluster: Cluster) -> None:
    first, second = cluster.nodes(2, 8)
    with cluster.operator():
        cluster.deploy(6, KIND_EMULATED)
        cluster.until(lambda: sum(cluster.ready().values()) == 6)
        cluster.api.patch(f"{NODES}/{first}", {"spec": {"unschedulable": True}})
        cluster.until(lambda: cluster.schedulable(first) == "NodeCordoned")
        for pod in cluster.pods():
            if pod["spec"]["nodeName"] == first:
                cluster.until(lambda name=pod["metadata"]["name"]: _evicted(cluster, name))  # type: ignore[misc]
        cluster.until(lambda: dict(cluster.ready()) == on_devices([second], 6))
        assert cluster.api.get(f"{PROFILES}/{first}")["status"]["processors"][1]["capacityImagesPerSecond"] == "400.0"
        cluster.api.patch(f"{NODES}/{first}", {"spec": {"unschedulable": None}})
        cluster.until(lambda: cluster.schedulable(first) == "NodeReady")


def _evicted(cluster: Cluster, name: str) -> bool:
    """As `kubectl drain`: through the PodDisruptionBudget, tried again while it refuses."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "user"}}
    try:
        cluster.api.request("POST", f"{PODS}/{name}/eviction", body)
    except ApiError as error:
        return "not found" in str(error)
    return True


def test_a_taint_moves_the_pods_and_keeps_the_numbers(cluster: Cluster) -> None:
    first, second = cluster.nodes(2, 8)
    with cluster.operator():
        cluster.deploy(4, KIND_EMULATED)
        cluster.until(lambda: sum(cluster.ready().values()) == 4)
        taint = {"key": "maintenance", "effect": "NoExecute"}
        cluster.api.patch(f"{NODES}/{first}", {"spec": {"taints": [taint]}})
        cluster.until(lambda: dict(cluster.ready()) == on_devices([second], 4))
        assert cluster.api.get(f"{PROFILES}/{first}")["status"]["processors"][1]["slots"] == 8


def test_a_node_that_goes_and_comes_back_with_other_hardware(cluster: Cluster) -> None:
    first, second = cluster.nodes(2, 8)
    with cluster.operator():
        cluster.deploy(4, KIND_EMULATED)
        cluster.until(lambda: sum(cluster.ready().values()) == 4)
        old = cluster.api.get(f"{PROFILES}/{first}")["metadata"]["uid"]
        cluster.api.delete(f"{NODES}/{first}")
        cluster.until(lambda: dict(cluster.ready()) == on_devices([second], 4))
        resources, labels = {KIND_EMULATED: "2"}, {LABEL_BENCHMARK_OPT_OUT: "true"}
        kwok.add_nodes(cluster.api, 1, prefix="n", resources=resources, labels=labels)
        cluster.until(lambda: _uid(cluster, first) not in ("", old) and cluster.schedulable(first) == "NodeReady")
        (processor,) = cluster.api.get(f"{PROFILES}/{first}")["status"]["processors"][1:]
        assert (processor["slots"], processor.get("capacityImagesPerSecond"), processor["reason"]) == (
            2,
            None,
            "OptedOut",
        )


def _uid(cluster: Cluster, name: str) -> str:
    try:
        return str(cluster.api.get(f"{PROFILES}/{name}")["metadata"]["uid"])
    except ApiError:
        return ""


def test_a_node_that_is_not_ready_takes_no_pods_and_keeps_its_numbers(cluster: Cluster) -> None:
    (first,) = cluster.nodes(1, 8, prefix="other")
    with cluster.operator():
        cluster.until(lambda: cluster.schedulable(first) == "NodeReady")
        cluster.api.patch(f"{NODES}/{first}", {"metadata": {"annotations": {kwok.ANNOTATION: None}}})
        down = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
        cluster.api.patch(f"{NODES}/{first}/status", {"status": {"conditions": [down]}}, how="strategic")
        cluster.until(lambda: cluster.schedulable(first) == "NodeNotReady")
        cluster.deploy(1, KIND_EMULATED)
        cluster.until(lambda: bool(cluster.pods()))
        cluster.bed.assert_silent(quiet_s=3)
        assert all(each["spec"].get("schedulingGates") for each in cluster.pods())
        assert cluster.api.get(f"{PROFILES}/{first}")["status"]["processors"][1]["capacityImagesPerSecond"] == "400.0"
        up = {"type": "Ready", "status": "True"}
        cluster.api.patch(f"{NODES}/{first}/status", {"status": {"conditions": [up]}}, how="strategic")
        cluster.until(lambda: all("nodeName" in each["spec"] for each in cluster.pods()))
