"""autoscaling/v2 scales a ModelDeployment by its queue; the worst replicas go first; to zero and back; a drain.

Real: API server, scheduler, controller manager (HPA, disruption and ReplicaSet controllers), the whole operator. Fake:
kubelets and sidecars, and the adapter between the operator's /metrics and the HPA.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from batchwright_worker.api.messages import DeviceState, SidecarState
from e2e.cluster import ApiError, ControlPlane
from tests.deployments.deployment_objects import histogram, model_state, state
from tests.deployments.external_metrics import adapter, value_of
from tests.deployments.fake_nodes import FakeNodes
from tests.reconcile.bed import OBJECTS, ROOT, Bed, prepare, wait

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]

PODS = "/api/v1/namespaces/default/pods"
HPAS = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
PROFILES = "/apis/batchwright.dev/v1alpha1/acceleratorprofiles"
PDB = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/echo"
NODES = {"fast": ("400", "700m"), "slow": ("10", "8")}
"""Name -> images/s, and cores: a replica asks for 0.3, so that the fast one has room for two."""


class Load:
    """What waits at the deployment, whoever serves it; `state` is what each of `pods` sidecars says."""

    def __init__(self) -> None:
        self._queue, self._revision = 0, 1

    def offer(self, queue: int) -> None:
        self._queue, self._revision = queue, self._revision + 1

    def state(self, pods: int) -> SidecarState:
        model = model_state(
            "echo", queue_length=self._queue // max(1, pods), throughput=5.0, latency_counts=histogram(50.0)
        )
        device = DeviceState(kind="cpu", device="0", busy_ratio=0.5, memory_used_bytes=0, memory_bytes=1)
        said = state(model, revision=1000 * self._revision + pods)
        return msgspec.structs.replace(said, devices=[device])


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A cluster whose HPA controller looks every second; two nodes, one much faster."""
    arguments = ["--node-monitor-grace-period=24h", "--horizontal-pod-autoscaler-sync-period=1s"]
    with ControlPlane.start("autoscaling", controller_manager_args=arguments) as plane:
        prepare(plane)
        plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "batchwright-agent"}})
        wait(lambda: plane.api.exists("/api/v1/namespaces/default/serviceaccounts/default"), 20, lambda: "no account")
        for name, (capacity, cores) in NODES.items():
            _node(plane.api, name, capacity, cores)
        yield plane


def _node(api: Any, name: str, capacity: str, cores: str) -> None:
    row = {"batchSize": 8, "imagesPerSecond": capacity, "maxServices": 8}
    processor = {"kind": "cpu", "capacityImagesPerSecond": capacity, "loadTable": [row], "reason": "Benchmarked"}
    kind = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "AcceleratorProfile", "metadata": {"name": name}}
    api.request("POST", PROFILES, kind)
    api.patch(f"{PROFILES}/{name}/status", {"status": {"processors": [processor]}})
    labels = {"kubernetes.io/hostname": name, "batchwright.dev/benchmark-opt-out": "true"}
    api.request("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
    amounts = {"cpu": cores, "memory": "16Gi", "pods": "110"}
    status = {"allocatable": amounts, "capacity": amounts, "conditions": [{"type": "Ready", "status": "True"}]}
    api.patch(f"/api/v1/nodes/{name}/status", {"status": status}, how="strategic")
    api.patch(f"/api/v1/nodes/{name}", {"spec": {"taints": None}})


def hpa() -> dict[str, Any]:
    """The one that the page shows, with this test's behaviour."""
    text = (ROOT / "docs" / "autoscaling.md").read_text()
    block = next(each for each in text.split("```yaml\n")[1:] if "kind: HorizontalPodAutoscaler" in each)
    body: dict[str, Any] = yaml.safe_load(block.split("```")[0])
    body["metadata"]["name"] = body["spec"]["scaleTargetRef"]["name"] = "echo"
    body["spec"]["metrics"][0]["external"]["metric"]["selector"]["matchLabels"]["name"] = "echo"
    body["spec"]["behavior"] = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    return body


def scaler(bed: Bed) -> str:
    """The status of the HPA, keys in order."""
    found = bed.api.get(HPAS)["items"][0].get("status") or {}
    return json.dumps(found, sort_keys=True)


def nodes_of(bed: Bed) -> Counter[str]:
    found = [each for each in bed.api.get(PODS)["items"] if not each["metadata"].get("deletionTimestamp")]
    return Counter(each["spec"].get("nodeName", "") for each in found)


def scale(bed: Bed, replicas: int) -> None:
    body = {"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": replicas}}
    bed.api.patch(f"{OBJECTS}/echo/scale", body)


def status(bed: Bed) -> dict[str, Any]:
    found: dict[str, Any] = bed.api.get(f"{OBJECTS}/echo")["status"]
    return found


def evict(bed: Bed, pod: str) -> int:
    """The code of the API server's answer."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}}
    try:
        bed.api.request("POST", f"{PODS}/{pod}/eviction", body)
    except ApiError as error:
        return error.status
    return 201


@pytest.fixture
def bed(plane: ControlPlane, tmp_path: Path) -> Bed:
    return Bed(plane=plane, folder=tmp_path)


def test_an_hpa_scales_by_the_queue_and_the_worst_replicas_go_and_zero_is_a_number(bed: Bed) -> None:
    load = Load()
    nodes = FakeNodes(bed.api, PODS, load.state)
    artifact = {"accelerator": "cpu", "format": "emulated", "emulated": {"fixedMicroseconds": 1000}}
    with nodes.running(), bed.operator(BATCHWRIGHT_RECONCILERS="[]", BATCHWRIGHT_RESYNC_SECONDS="30") as operator:
        spec = {"replicas": 1, "models": [{"name": "echo", "artifacts": [artifact]}]}
        head = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "echo"}}
        bed.api.request("POST", OBJECTS, {**head, "spec": spec})
        wait(lambda: status(bed).get("readyReplicas") == 1, 40, lambda: f"{status(bed)}{operator.text()[-2000:]}")
        metric = "batchwright_modeldeployment_queue_length"
        wait(lambda: value_of(operator.metrics(), metric, {"name": "echo"}) == 0, 20, operator.metrics)
        with adapter(bed.plane, operator.metrics):
            bed.api.request("POST", HPAS, hpa())
            load.offer(36)
            wait(lambda: status(bed).get("readyReplicas") == 4, 60, lambda: scaler(bed))
            assert nodes_of(bed) == {"fast": 2, "slow": 2}
            load.offer(18)
            wait(lambda: sum(nodes_of(bed).values()) == 2, 60, lambda: scaler(bed))
            assert nodes_of(bed) == {"fast": 2}
            assert '"status": "True", "type": "ScalingActive"' in scaler(bed)
            bed.api.delete(HPAS)
        scale(bed, 0)
        wait(lambda: not nodes_of(bed) and status(bed)["replicas"] == 0, 40, lambda: f"{status(bed)}")
        scale(bed, 3)
        wait(lambda: status(bed).get("readyReplicas") == 3, 60, lambda: f"{status(bed)}")
        shown = bed.api.get(f"{OBJECTS}/echo/scale")
        assert (shown["spec"]["replicas"], shown["status"]["replicas"]) == (3, 3)
        assert "batchwright.dev/deployment=echo" in shown["status"]["selector"]
        one_at_a_time(bed)
        bed.settle()
    bed.api.delete(OBJECTS)


def one_at_a_time(bed: Bed) -> None:
    """A drain may take one replica, and the next one when that has been replaced."""

    def all_serve() -> bool:
        budget = bed.api.get(PDB)["status"]
        return (budget.get("disruptionsAllowed"), budget.get("currentHealthy"), len(names(bed))) == (1, 3, 3)

    wait(all_serve, 30, lambda: f"{bed.api.get(PDB)['status']}")
    first, second, _ = sorted(each["metadata"]["name"] for each in bed.api.get(PODS)["items"])
    assert (evict(bed, first), evict(bed, second)) == (201, 429)
    wait(lambda: status(bed).get("readyReplicas") == 3 and first not in names(bed), 40, lambda: f"{status(bed)}")
    deadline = time.monotonic() + 60
    while evict(bed, second) != 201:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def names(bed: Bed) -> list[str]:
    return [each["metadata"]["name"] for each in bed.api.get(PODS)["items"]]
