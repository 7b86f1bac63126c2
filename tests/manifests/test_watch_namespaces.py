"""The operator with rights in one namespace: it does its whole work there, and can read nothing of others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchwright_operator.kube.client import path_of
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, DEPLOYMENT, JOB, MODEL_DEPLOYMENT, POD, SECRET
from e2e.cluster import ApiError, ControlPlane, kubectl_path
from e2e.cluster.control_plane import audit
from e2e.cluster.control_plane.api import Api
from e2e.cluster.machine.waiting import wait_until
from tests.manifests.test_operator_rights import NODE, NODE_STATUS, ROOT, USER, settled

pytestmark = pytest.mark.apiserver

MINE, OTHER = "team-a", "team-b"
ARTIFACTS = [{"accelerator": "batchwright.dev/emulated", "format": "emulated", "emulated": {}}]
BODY = {
    "apiVersion": "batchwright.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "echo"},
    "spec": {"models": [{"name": "echo", "artifacts": ARTIFACTS}]},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    """manifests/overlays/namespaced, a node on paper, and the same ModelDeployment in two namespaces."""
    with ControlPlane.start("watch-namespaces") as plane:

        def kubectl(*arguments: str) -> None:
            subprocess.run([str(kubectl_path()), "--kubeconfig", str(plane.kubeconfig), *arguments], check=True)

        for name in (MINE, OTHER):
            kubectl("create", "namespace", name)
        overlay = str(ROOT / "manifests" / "overlays" / "namespaced")
        kubectl("apply", "--server-side", "-k", overlay)
        kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd/modeldeployments.batchwright.dev")
        plane.api.request("POST", "/api/v1/nodes", NODE)
        plane.api.patch("/api/v1/nodes/node-a/status", {"status": NODE_STATUS})
        for name in (MINE, OTHER):
            path = path_of(MODEL_DEPLOYMENT, name)
            posted = partial(settled, partial(plane.api.request, "POST", path, BODY))
            assert wait_until(posted, timeout_s=60, interval_s=0.5)
        yield plane


@pytest.fixture(scope="module")
def operator_log(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The operator as its ServiceAccount, with the setting of the overlay; the path of its log."""
    log = tmp_path_factory.mktemp("operator") / "log"
    program = [sys.executable, "-m", "batchwright_operator", "run", "--namespace=batchwright-system"]
    options = [f"--kubeconfig={cluster.kubeconfig_for(USER, 'system:serviceaccounts')}", "--metrics-port=0"]
    environ = {**os.environ, "BATCHWRIGHT_WATCH_NAMESPACES": f"[{MINE}]", "BATCHWRIGHT_RESYNC_SECONDS": "3"}
    with log.open("w") as file:
        process = subprocess.Popen([*program, *options], stdout=file, stderr=file, env=environ)
        yield log
        process.terminate()
        process.wait(timeout=60)


def reason(cluster: ControlPlane, namespace: str) -> str:
    found = cluster.api.get(path_of(MODEL_DEPLOYMENT, namespace, "echo"))
    return str((found.get("status") or {}).get("summary", {}).get("reason", ""))


def at_work(cluster: ControlPlane) -> bool:
    """Children and a status in its namespace, a profile of the node, and its benchmark."""
    children = cluster.api.get(path_of(DEPLOYMENT, MINE))["items"]
    profiles: list[Any] = cluster.api.get(path_of(ACCELERATOR_PROFILE))["items"]
    jobs = cluster.api.get(path_of(JOB, "batchwright-system"))["items"]
    return bool(children and reason(cluster, MINE) and profiles and profiles[0].get("status") and jobs)


def test_it_works_in_its_namespace_and_leaves_others_alone(cluster: ControlPlane, operator_log: Path) -> None:
    assert wait_until(lambda: settled(lambda: at_work(cluster)), timeout_s=120, interval_s=0.5), (
        operator_log.read_text()[-3000:]
    )
    cluster.api.patch(path_of(MODEL_DEPLOYMENT, MINE, "echo"), {"spec": {"replicas": 2}})

    def followed() -> bool:
        return [each["spec"]["replicas"] for each in cluster.api.get(path_of(DEPLOYMENT, MINE))["items"]] == [2]

    assert wait_until(lambda: settled(followed), timeout_s=60, interval_s=0.5), operator_log.read_text()[-3000:]
    assert reason(cluster, OTHER) == ""
    assert cluster.api.get(path_of(DEPLOYMENT, OTHER))["items"] == []
    writes = audit.writes(cluster.audit_log_path, user=USER)
    assert {each.namespace for each in writes} <= {MINE, "batchwright-system", "default", ""}
    assert [each for each in writes if each.status in (401, 403, 422)] == []
    assert "orbidden" not in operator_log.read_text()


@pytest.mark.parametrize("resource", [POD, SECRET, DEPLOYMENT, JOB, MODEL_DEPLOYMENT], ids=lambda each: each.plural)
def test_it_can_read_nothing_of_others(resource: Any, cluster: ControlPlane) -> None:
    pair = cluster.authority.client("namespaced", USER, "system:serviceaccounts")
    api = Api(cluster.server_url, cluster.ca_path, pair)
    for namespace in (OTHER, "kube-system", ""):
        with pytest.raises(ApiError, match="403"):
            api.get(path_of(resource, namespace))
