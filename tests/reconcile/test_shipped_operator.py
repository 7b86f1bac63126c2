"""The operator as it is shipped (all reconcilers and background tasks), and the plugin, on a real API server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import ControlPlane
from tests.reconcile.bed import OBJECTS, ROOT, SYSTEM, Bed, moment_ago, prepare, wait

pytestmark = pytest.mark.apiserver

PODS = "/api/v1/namespaces/default/pods?labelSelector=app.kubernetes.io/component=model"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PROFILE = "/apis/batchwright.dev/v1alpha1/acceleratorprofiles"
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
CLAIM = {
    "metadata": {"name": "models"},
    "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""},
}
ALLOCATABLE = {"cpu": "4", "memory": "8Gi", "pods": "110"}


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server whose nodes need no kubelet to stay ready."""
    patient = ["--node-monitor-grace-period=24h"]
    with ControlPlane.start("product", scheduler=False, controller_manager_args=patient) as plane:
        prepare(plane)
        plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "batchwright-agent"}})
        for name in ("node-a", "node-b"):
            _node(plane.api, name)
        yield plane


def _node(api: Any, name: str) -> None:
    labels = {"batchwright.dev/benchmark-opt-out": "true", "kubernetes.io/hostname": name}
    api.request("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
    ready = {"type": "Ready", "status": "True", "reason": "Test", "message": ""}
    times = dict.fromkeys(("lastHeartbeatTime", "lastTransitionTime"), "2026-01-01T00:00:00Z")
    status = {"allocatable": ALLOCATABLE, "capacity": ALLOCATABLE, "conditions": [ready | times]}
    api.patch(f"/api/v1/nodes/{name}/status", {"status": status})
    wait(lambda: not api.get(f"/api/v1/nodes/{name}")["spec"].get("taints"), 30, lambda: f"{name} is tainted")


def plugin(bed: Bed, *arguments: str) -> str:
    """The plugin's output."""
    command = [sys.executable, "-m", "batchwright_operator.plugin.cli", "--kubeconfig", str(bed.plane.kubeconfig)]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def receipts(bed: Bed) -> list[str]:
    pods = bed.api.get(PODS)["items"]
    found = (pod["metadata"].get("annotations", {}).get("batchwright.dev/placement") for pod in pods)
    return [text for text in found if text]


def template(bed: Bed) -> Any:
    """The pod template of `m0`."""
    return bed.api.get(f"{DEPLOYMENTS}/m0-cpu")["spec"]["template"]


def test_the_shipped_operator_places_and_is_silent_and_the_plugin_tells_why(bed: Bed, tmp_path: Path) -> None:
    manifest = tmp_path / "wanted.yaml"
    manifest.write_text(_MANIFEST)
    with bed.operator(BATCHWRIGHT_RECONCILERS="[]", BATCHWRIGHT_RESYNC_SECONDS="3") as operator:
        wait(lambda: len(bed.api.get(PROFILE)["items"]) == 2, 30, operator.text)
        bed.settle()
        planned = plugin(bed, "plan", "-f", str(manifest))
        assert "planned-3: waits: NoFittingProcessor: there is no PersistentVolumeClaim models" in planned
        bed.api.request("POST", CLAIMS, CLAIM)
        assert "planned-3: node-" in plugin(bed, "plan", "-f", str(manifest))
        bed.create(1)
        bed.change(1, replicas=3)
        wait(lambda: len(receipts(bed)) == 3, 30, lambda: operator.text() + str(bed.api.get(PODS)["items"])[:2000])
        pod = bed.api.get(PODS)["items"][0]["metadata"]["name"]
        assert f"{pod}: node-" in plugin(bed, "why", pod)
        assert "Ready=False" in plugin(bed, "why", "m0")
        assert "every replica has a pod already" in plugin(bed, "plan", "m0")
        assert "planned-2" in plugin(bed, "plan", "m0", "--replicas", "5")
        assert "OptedOut" in plugin(bed, "top")
        before = template(bed)
        bed.api.patch(f"{OBJECTS}/m0", {"spec": {"queueOrder": "Oldest"}})
        wait(lambda: template(bed) != before, 30, operator.text)
        assert "queueOrder" in plugin(bed, "history", "m0")
        assert "goes back to revision 1" in plugin(bed, "rollback", "m0")
        wait(lambda: template(bed) == before, 30, operator.text)
        wait(lambda: "3 (current)" in plugin(bed, "history", "m0"), 30, operator.text)
        since = moment_ago()
        bed.assert_silent(quiet_s=10)
        assert "OptedOut" in plugin(bed, "bench", "node-a")
        assert [one for one in bed.writes(since=since) if one.resource != "events"] == []
        bed.api.delete(OBJECTS)
        wait(lambda: not bed.api.get(PODS)["items"], 60, lambda: "pods are left")
        bed.assert_silent(quiet_s=3)


def test_the_plugin_says_what_is_missing(bed: Bed) -> None:
    command = [sys.executable, "-m", "batchwright_operator.plugin.cli", "--kubeconfig", str(bed.plane.kubeconfig)]
    for arguments, problem in (
        (["why", "nothing"], "neither a pod nor a ModelDeployment nothing"),
        (["plan", "nothing"], "no ModelDeployment nothing"),
        (["plan"], "name a ModelDeployment, or give a manifest"),
        (["rollback", "nothing"], "no ModelDeployment nothing"),
        (["bench", "nothing"], "no AcceleratorProfile nothing"),
    ):
        done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert problem in done.stderr
    assert SYSTEM in subprocess.run([*command, "top"], cwd=ROOT, capture_output=True, text=True, check=True).stderr


_MANIFEST = """
apiVersion: batchwright.dev/v1alpha1
kind: ModelDeployment
metadata: {name: wanted}
spec:
  replicas: 3
  models:
  - name: a
    artifacts: [{accelerator: cpu, format: onnx, uri: pvc://models/a.onnx}]
"""
