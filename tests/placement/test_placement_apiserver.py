"""Placement and profiles by the operator's process on a real API server and scheduler; nodes are objects only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchwright_operator.kube.objects import Raw
from batchwright_worker.api.messages import BenchmarkResult, LoadTableRow
from batchwright_worker.api.names import ANNOTATION_RECEIPT, ANNOTATION_WAITING, LABEL_BENCHMARK_OPT_OUT
from e2e.cluster import ApiError, ControlPlane
from tests.placement.placement_objects import deployment, pod
from tests.reconcile.bed import SYSTEM, Bed, prepare, wait

pytestmark = pytest.mark.apiserver

RECONCILERS = json.dumps(
    [
        "batchwright_operator.processors.reconciler:AcceleratorProfileReconciler",
        "batchwright_operator.placement.reconciler:PlacementReconciler",
    ]
)
PODS = "/api/v1/namespaces/user/pods"
NODES = "/api/v1/nodes"
PROFILES = "/apis/batchwright.dev/v1alpha1/acceleratorprofiles"
DEPLOYMENTS = "/apis/batchwright.dev/v1alpha1/namespaces/user/modeldeployments"
JOBS = f"/apis/batch/v1/namespaces/{SYSTEM}/jobs"
REPLICATED = "/apis/apps/v1/namespaces/user/deployments"
SYSTEM_PODS = f"/api/v1/namespaces/{SYSTEM}/pods"
EVENTS = "/apis/events.k8s.io/v1/namespaces/user/events"


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server with scheduler, controller manager and our CRDs; nodes need no heartbeat."""
    with ControlPlane.start("placement", controller_manager_args=["--node-monitor-grace-period=24h"]) as plane:
        prepare(plane, "user")
        yield plane


@pytest.fixture
def bed(plane: ControlPlane, tmp_path: Path) -> Iterator[PlacementBed]:
    """No nodes, no pods; one ModelDeployment `ocr` in namespace `user`."""
    bed = PlacementBed(Bed(plane=plane, folder=tmp_path))
    raw = deployment(replicas=8, placement={"spread": False})
    head = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "ocr"}}
    made = plane.api.request("POST", DEPLOYMENTS, {**raw, **head})
    bed.uid = made["metadata"]["uid"]
    yield bed
    for path in (DEPLOYMENTS, REPLICATED, JOBS, PODS, SYSTEM_PODS, NODES, PROFILES):
        plane.api.delete(f"{path}?gracePeriodSeconds=0&propagationPolicy=Background")
    bed.inner.clean()


class PlacementBed:
    """What these tests do to the cluster."""

    def __init__(self, inner: Bed) -> None:
        self.inner, self.api, self.uid = inner, inner.api, ""

    def operator(self, **environ: str) -> Any:
        return self.inner.operator(BATCHWRIGHT_RECONCILERS=RECONCILERS, BATCHWRIGHT_BACKGROUNDS="[]", **environ)

    def node(self, name: str, *, cpu: str = "4", capacity: str | None = "100", services: int = 4) -> None:
        """A Ready Node; with a capacity, its profile is seeded first and benchmarks are opted out."""
        if capacity:
            self._profile(name, capacity, services)
        labels = {"kubernetes.io/hostname": name} | ({LABEL_BENCHMARK_OPT_OUT: "true"} if capacity else {})
        self.api.request("POST", NODES, {"metadata": {"name": name, "labels": labels}})
        amounts = {"cpu": cpu, "memory": "8Gi", "pods": "110"}
        status = {"allocatable": amounts, "capacity": amounts, "conditions": [{"type": "Ready", "status": "True"}]}
        self.api.patch(f"{NODES}/{name}/status", {"status": status}, how="strategic")
        self.api.patch(f"{NODES}/{name}", {"spec": {"taints": None}})

    def _profile(self, name: str, capacity: str, services: int) -> None:
        row = {"batchSize": 8, "imagesPerSecond": capacity, "maxServices": services}
        processor = {"kind": "cpu", "capacityImagesPerSecond": capacity, "loadTable": [row], "reason": "Benchmarked"}
        kind = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "AcceleratorProfile"}
        self.api.request("POST", PROFILES, {**kind, "metadata": {"name": name}})
        self.api.patch(f"{PROFILES}/{name}/status", {"status": {"processors": [processor]}})

    def body(self, name: str, *, port: int | None = None, cpu: str = "100m") -> Raw:
        """A gated model pod, without what the ReplicaSet adds."""
        raw = pod(name, cpu=cpu)
        (container,) = raw["spec"]["containers"]
        ports = [{"containerPort": port, "hostPort": port}] if port else []
        raw["spec"]["containers"] = [{**container, "image": "none", "ports": ports}]
        labels = {key: value for key, value in raw["metadata"]["labels"].items() if key != "pod-template-hash"}
        return {"spec": raw["spec"], "metadata": {"labels": labels, "annotations": raw["metadata"]["annotations"]}}

    def replicas(self, count: int, *, cpu: str = "100m", port: int | None = None) -> None:
        """The Deployment of `ocr` with this many gated pods, which its ReplicaSet makes."""
        if self.api.exists(f"{REPLICATED}/ocr-cpu"):
            self.api.patch(f"{REPLICATED}/ocr-cpu", {"spec": {"replicas": count}})
            return
        template = self.body("template", cpu=cpu, port=port)
        labels = template["metadata"]["labels"]
        owner = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment", "name": "ocr", "uid": self.uid}
        metadata = {"name": "ocr-cpu", "labels": labels, "ownerReferences": [{**owner, "controller": True}]}
        spec = {"replicas": count, "selector": {"matchLabels": labels}, "template": template}
        self.api.request("POST", REPLICATED, {"metadata": metadata, "spec": spec})
        self.until(lambda: len(self.pods()) == count)

    def only(self) -> str:
        """The name of the only pod."""
        (name,) = self.pods()
        return name

    def pods(self) -> dict[str, Raw]:
        return {each["metadata"]["name"]: each for each in self.api.get(PODS)["items"]}

    def bound(self) -> dict[str, str]:
        """Pod -> node, as the scheduler has it."""
        return {name: each["spec"].get("nodeName", "") for name, each in self.pods().items()}

    def reasons(self) -> Counter[str]:
        return Counter(each["reason"] for each in self.api.get(EVENTS)["items"])

    def until(self, met: Callable[[], bool], within_s: float = 90) -> None:
        wait(met, within_s, self._seen)

    def _seen(self) -> str:
        pods = {name: (each["spec"].get("nodeName"), each["metadata"].get("annotations"), each.get("status"))
                for name, each in self.pods().items()}  # fmt: skip
        logs = [path.read_text()[-2000:] for path in self.inner.folder.glob("*.log")]
        return "\n".join([json.dumps(pods, indent=1)[:4000], *logs])


def annotation(raw: Raw, name: str) -> str:
    return str((raw["metadata"].get("annotations") or {}).get(name, ""))


def test_gated_pods_are_bound_and_explained_by_one_patch_each(bed: PlacementBed) -> None:
    for name, capacity in {"a": "400", "b": "200", "c": "100", "d": "100"}.items():
        bed.node(name, capacity=capacity, services=8)
    bed.replicas(8)
    with bed.operator():
        bed.until(lambda: all(bed.bound().values()))
        pods = bed.pods()
        for raw in pods.values():
            receipt = json.loads(annotation(raw, ANNOTATION_RECEIPT))
            assert raw["spec"]["nodeName"] == receipt["node"]
            assert not raw["spec"].get("schedulingGates")
            assert receipt["reason"].startswith(f"{receipt['node']}: load ")
        counts = Counter(bed.bound().values())
        assert counts["a"] >= counts["b"] >= counts["c"]
        assert len(counts) >= 2  # own placements count: not all on the fastest
        bed.until(lambda: bed.reasons()["Placed"] >= 1)
        bed.inner.assert_silent(quiet_s=3)
    patches = [each for each in bed.inner.writes() if each.resource == "pods" and each.verb == "patch"]
    assert len({each.name for each in patches}) == 8
    profiles = bed.api.get(PROFILES)["items"]
    assert {each["metadata"]["ownerReferences"][0]["kind"] for each in profiles} == {"Node"}


def test_pod_that_the_scheduler_refuses_is_deleted_and_tried_elsewhere(bed: PlacementBed) -> None:
    """A host port is what only the scheduler checks: the second replica does not fit next to the first."""
    bed.node("big", capacity="400")
    bed.node("small", capacity="10")
    with bed.operator(BATCHWRIGHT_PLACEMENT_PIN="Affinity"):
        bed.replicas(2, port=7777)
        bed.until(lambda: sorted(bed.bound().values()) == ["big", "small"])
        bed.until(lambda: bed.reasons()["PlacementTakenBack"] == 1)
        bed.inner.assert_silent(quiet_s=3)
        bed.api.delete(REPLICATED)
        bed.until(lambda: all(each["metadata"].get("deletionTimestamp") for each in bed.pods().values()))


def test_where_the_nominated_node_is_full_the_scheduler_takes_another(bed: PlacementBed) -> None:
    bed.node("big", capacity="400")
    bed.node("small", capacity="10")
    before = bed.reasons()["PlacementTakenBack"]
    with bed.operator():
        bed.replicas(2, port=7777)
        bed.until(lambda: sorted(bed.bound().values()) == ["big", "small"])
        bed.inner.assert_silent(quiet_s=3)
        assert bed.reasons()["PlacementTakenBack"] == before


def test_a_node_with_model_pods_can_be_emptied(bed: PlacementBed) -> None:
    """First as cluster-autoscaler and Karpenter try it out: would the pod fit elsewhere, as it is? Then done."""
    bed.node("big", capacity="400")
    bed.node("small", capacity="10")
    bed.replicas(1)
    with bed.operator():
        bed.until(lambda: list(bed.bound().values()) == ["big"])
        (placed,) = bed.pods().values()
        assert "nodeAffinity" not in (placed["spec"].get("affinity") or {})
        bed.api.patch(f"{NODES}/big", {"spec": {"unschedulable": True}})
        spec = {name: value for name, value in placed["spec"].items() if name != "nodeName"}
        bed.api.request("POST", PODS, {"metadata": {"name": "as-simulated"}, "spec": spec})
        bed.until(lambda: bed.bound()["as-simulated"] == "small")
        bed.api.delete(f"{PODS}/as-simulated?gracePeriodSeconds=0")
        name = placed["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "user"},
                    "deleteOptions": {"gracePeriodSeconds": 0}}  # fmt: skip
        bed.api.request("POST", f"{PODS}/{name}/eviction", eviction)
        bed.until(lambda: name not in bed.bound() and list(bed.bound().values()) == ["small"])
        receipt = json.loads(annotation(bed.pods()[bed.only()], ANNOTATION_RECEIPT))
        assert receipt["node"] == "small"
        bed.inner.assert_silent(quiet_s=3)


def test_no_fit_is_annotated_then_released_to_the_scheduler_and_adopted(bed: PlacementBed) -> None:
    bed.node("small", cpu="1")
    with bed.operator(BATCHWRIGHT_UNFIT_SECONDS="4") as running:
        bed.until(lambda: "leading as" in running.text())
        bed.replicas(1, cpu="3")
        large = bed.only()
        bed.until(lambda: "insufficient cpu" in annotation(bed.pods()[large], ANNOTATION_WAITING))
        bed.until(lambda: not bed.pods()[large]["spec"].get("schedulingGates"))
        receipt = json.loads(annotation(bed.pods()[large], ANNOTATION_RECEIPT))
        assert receipt["node"] == ""
        bed.until(lambda: _is_unschedulable(bed.pods()[large]))  # which is what a cluster autoscaler looks for
        assert "affinity" not in bed.pods()[large]["spec"]
        assert ANNOTATION_WAITING not in bed.pods()[large]["metadata"]["annotations"]
        bed.node("new", cpu="4", capacity="50")  # what a cluster autoscaler would bring
        bed.until(lambda: bed.bound()[large] == "new")
        bed.inner.assert_silent(quiet_s=3)


def _is_unschedulable(raw: Raw) -> bool:
    conditions = raw["status"].get("conditions") or ()
    return any(each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable" for each in conditions)


def test_operator_killed_in_a_burst_places_every_pod_once(bed: PlacementBed) -> None:
    since = datetime.now(UTC)
    for name in "abcd":
        bed.node(name)
    bed.replicas(120)
    with bed.operator() as running:
        bed.until(lambda: any(bed.bound().values()))
        running.process.kill()
        running.process.wait()
    with bed.operator(BATCHWRIGHT_LEASE_NAME="batchwright-operator-2"):
        bed.replicas(121)
        bed.until(lambda: len(bed.bound()) == 121 and all(bed.bound().values()))
    counts = Counter(bed.bound().values())
    assert sum(counts.values()) == 121
    assert max(counts.values()) - min(counts.values()) <= 2, counts
    written = bed.inner.writes(since=since)
    assert {each.name for each in written if each.resource == "pods" and each.verb == "patch"} == set(bed.bound())


def test_benchmark_of_a_new_node_ends_in_its_profile(bed: PlacementBed) -> None:
    """The Job is accepted by the API server; its pod (played by the test) answers; a waiting model pod is placed."""
    bed.node("fresh", capacity=None)
    bed.replicas(1)
    waiting = bed.only()
    with bed.operator():
        bed.until(lambda: bed.api.exists(f"{JOBS}/bench-fresh-cpu"))
        bed.until(lambda: annotation(bed.pods()[waiting], ANNOTATION_WAITING).startswith("AwaitingBenchmark: "))
        _answer(bed)
        bed.until(lambda: bed.bound()[waiting] == "fresh")
        profile = bed.api.get(f"{PROFILES}/fresh")
        (processor,) = profile["status"]["processors"]
        assert (processor["capacityImagesPerSecond"], processor["reason"]) == ("12.50", "Benchmarked")
        types = [each["type"] for each in profile["status"]["conditions"]]
        assert types == ["Benchmarked", "Fresh", "Degraded", "Schedulable"]
        bed.inner.assert_silent(quiet_s=3)
        first = _job_uid(bed)
        bed.replicas(0)  # without a sample, only a node without models counts as idle
        bed.api.delete(f"{PODS}/{waiting}?gracePeriodSeconds=0")
        bed.api.patch(f"{PROFILES}/fresh", {"metadata": {"annotations": {"batchwright.dev/rebenchmark": "now"}}})
        bed.until(lambda: _job_uid(bed) not in ("", first))


def _job_uid(bed: PlacementBed) -> str:
    try:
        return str(bed.api.get(f"{JOBS}/bench-fresh-cpu")["metadata"]["uid"])
    except ApiError:
        return ""


def _answer(bed: PlacementBed) -> None:
    """The kubelet's part: the benchmark's pod ended with a result."""
    bed.until(lambda: bool(bed.api.get(SYSTEM_PODS)["items"]))
    (found,) = bed.api.get(SYSTEM_PODS)["items"]
    row = LoadTableRow(batch_size=1, images_per_second=12.5, max_services=2)
    result = BenchmarkResult(kind="cpu", load_table=[row], capacity_images_per_second=12.5)
    terminated = {"exitCode": 0, "message": msgspec.json.encode(result).decode()}
    status = {"name": "benchmark", "image": "x", "imageID": "", "ready": False, "restartCount": 0,
              "state": {"terminated": terminated}}  # fmt: skip
    bed.until(lambda: bool(bed.api.get(f"{SYSTEM_PODS}/{found['metadata']['name']}")["spec"].get("nodeName")))
    bed.api.patch(f"{SYSTEM_PODS}/{found['metadata']['name']}/status",
                  {"status": {"phase": "Succeeded", "containerStatuses": [status]}}, how="strategic")  # fmt: skip
