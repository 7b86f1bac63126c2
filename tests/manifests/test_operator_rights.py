"""The operator does its whole work with the rights of manifests/base and no others, in restricted namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import ApiError, ControlPlane
from e2e.cluster.control_plane import audit
from e2e.cluster.machine.waiting import wait_until
from tests.manifests.test_admission import NAMESPACE as TIED

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).resolve().parents[2]
USER = "system:serviceaccount:batchwright-system:batchwright-operator"
OWN = "/apis/batchwright.dev/v1alpha1"
SAMPLES = f"{OWN}/namespaces/batchwright-samples"
NODE = {
    "metadata": {"name": "node-a", "labels": {"kubernetes.io/os": "linux"}},
    "spec": {},
}
NODE_STATUS = {
    "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110", "batchwright.dev/emulated": "1"},
    "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110", "batchwright.dev/emulated": "1"},
    "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}],
}


@pytest.fixture(scope="module")
def cluster(kubectl: Callable[..., Any], plane: ControlPlane) -> ControlPlane:
    """manifests/base and a node that only exists on paper."""
    kubectl("apply", "--server-side", "-k", str(ROOT / "manifests" / "base"))
    crds = [f"crd/{kind}.batchwright.dev" for kind in ("modeldeployments", "inferencejobs", "acceleratorprofiles")]
    kubectl("wait", "--for=condition=Established", "--timeout=60s", *crds)
    plane.api.request("POST", "/api/v1/nodes", NODE)
    plane.api.patch("/api/v1/nodes/node-a/status", {"status": NODE_STATUS})
    return plane


@pytest.fixture(scope="module")
def operator_log(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The operator runs as its ServiceAccount; the path of its log."""
    log = tmp_path_factory.mktemp("operator") / "log"
    program = [sys.executable, "-m", "batchwright_operator", "run", "--namespace=batchwright-system"]
    options = [f"--kubeconfig={cluster.kubeconfig_for(USER)}", "--metrics-port=0"]
    with log.open("w") as file:
        environ = {name: value for name, value in os.environ.items() if name != "BATCHWRIGHT_WORKER_IMAGE"}
        process = subprocess.Popen([*program, *options], stdout=file, stderr=file, env=environ)
        yield log
        process.terminate()
        process.wait(timeout=60)


def plan_jobs(plane: ControlPlane) -> list[dict[str, Any]]:
    """The sample InferenceJob's child Jobs."""
    jobs = plane.api.get("/apis/batch/v1/namespaces/batchwright-samples/jobs")["items"]
    return [job for job in jobs if job["metadata"]["name"].startswith("score-items")]


def reconciled(plane: ControlPlane) -> bool:
    """Every object has a status, every ModelDeployment a pod, the InferenceJob a Job, the node a profile."""
    objects = [
        each for kind in ("modeldeployments", "inferencejobs") for each in plane.api.get(f"{SAMPLES}/{kind}")["items"]
    ]
    pods = plane.api.get("/api/v1/namespaces/batchwright-samples/pods")["items"]
    gated = [pod for pod in pods if "batchwright.dev/deployment" in pod["metadata"].get("labels", {})]
    seen = all(each["status"]["observedGeneration"] == each["metadata"]["generation"] for each in objects)
    profiles = plane.api.get(f"{OWN}/acceleratorprofiles")["items"]
    made = len(objects) == 3 and len(gated) == 2 and bool(plan_jobs(plane))
    return seen and made and bool(profiles and profiles[0]["status"].get("conditions"))


def settled(look: Callable[[], bool]) -> bool:
    """A look that the API server could not answer (it re-initializes storage after CRDs) has seen nothing yet."""
    try:
        return look()
    except ApiError:
        return False


def followed(plane: ControlPlane) -> bool:
    """The user's changes have reached the children."""
    plans = plan_jobs(plane)
    deployment = plane.api.get("/apis/apps/v1/namespaces/batchwright-samples/deployments/scorer-cpu")
    return bool(plans) and all(job["spec"]["suspend"] for job in plans) and deployment["spec"]["replicas"] == 2


def test_the_rights_suffice_for_the_samples_and_their_changes(
    cluster: ControlPlane, operator_log: Path, kubectl: Callable[..., Any]
) -> None:
    kubectl("apply", "--server-side", "-k", str(ROOT / "manifests" / "samples"))
    assert wait_until(lambda: settled(lambda: reconciled(cluster)), timeout_s=60, interval_s=0.3), (
        operator_log.read_text()[-3000:]
    )
    made = cluster.api.get("/apis/apps/v1/namespaces/batchwright-samples/deployments/scorer-cpu")
    images = {
        each["image"] for part in ("containers", "initContainers") for each in made["spec"]["template"]["spec"][part]
    }
    assert images == {"batchwright-worker:0.1.0"}  # as the agents have it
    kubectl("scale", "-n", "batchwright-samples", "mdep/scorer", "--replicas=2")
    cluster.api.patch(f"{SAMPLES}/inferencejobs/score-items", {"spec": {"suspend": True}})
    assert wait_until(lambda: settled(lambda: followed(cluster)), timeout_s=60, interval_s=0.3)
    writes = [each for each in audit.writes(cluster.audit_log_path, user=USER) if each.namespace != TIED]
    assert writes
    assert [write for write in writes if write.status in (401, 403, 422)] == []
    assert "orbidden" not in operator_log.read_text()


def test_it_may_not_read_secrets(cluster: ControlPlane, kubectl: Callable[..., Any]) -> None:
    config = cluster.kubeconfig_for(USER)
    for verb, namespace, expected in (
        ("list", "default", "no"),
        ("get", "batchwright-samples", "no"),
        ("get", "batchwright-system", "no"),
    ):
        asked = ["auth", "can-i", verb, "secrets", "-n", namespace, f"--kubeconfig={config}"]
        assert kubectl(*asked, check=False).stdout.strip() == expected
    own = ["auth", "can-i", "get", "secrets/batchwright-control-key", "-n", "batchwright-system"]
    assert kubectl(*own, f"--kubeconfig={config}").stdout.strip() == "yes"
