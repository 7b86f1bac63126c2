"""Applied, planned, waited for and deleted at the real API server. What an operator would write, the test writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import batchwright as bw
from e2e.cluster import ControlPlane
from tests.reconcile.bed import prepare

pytestmark = pytest.mark.apiserver
MERGE = "application/merge-patch+json"
PATH = "/apis/batchwright.dev/v1alpha1/namespaces/team/modeldeployments/scoring"


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane.start("sdk-tests") as plane:
        prepare(plane, "team")
        yield plane


@pytest.fixture
def cluster(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> bw.Cluster:
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    return bw.Cluster(namespace="team")


def scoring(replicas: int = 1) -> bw.Manifest:
    model = bw.Model(name="scorer", artifacts=(bw.Artifact(format="onnx", uri="pvc://models/scorer.onnx"),))
    return bw.model_deployment("scoring", bw.ModelDeploymentSpec(models=(model,), replicas=replicas))


def write_status(plane: ControlPlane, kind: str, reason: str, generation: int) -> None:
    condition = {"type": kind, "status": "True", "reason": reason, "message": "as the test says",
                 "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
    status: dict[str, Any] = {"observedGeneration": generation, "conditions": [condition]}
    plane.api.request("PATCH", f"{PATH}/status", {"status": status}, kind=MERGE)


def test_apply_plan_wait_and_delete(cluster: bw.Cluster, plane: ControlPlane) -> None:
    assert "+  replicas: 2" in cluster.plan(scoring(2))
    assert not plane.api.exists(PATH)
    created = cluster.apply(scoring(2))
    assert created["metadata"]["managedFields"][0]["manager"] == "batchwright-sdk"
    assert cluster.apply(scoring(2))["metadata"]["generation"] == created["metadata"]["generation"] == 1
    assert cluster.plan(scoring(2)) == ""
    assert "-  replicas: 2\n+  replicas: 3\n" in cluster.plan(scoring(3))

    seen: list[dict[str, Any]] = []

    def progress(found: dict[str, Any]) -> None:
        seen.append(found)
        if len(seen) == 1:
            write_status(plane, "Ready", "Available", 1)

    ready = cluster.wait(scoring(2), timeout_s=60, progress=progress)
    assert ready["status"]["conditions"][0]["reason"] == "Available"
    assert len(seen) == 2

    cluster.apply(scoring(3))  # of the new generation nothing is known yet
    with pytest.raises(bw.NotReached, match="Timeout: not there after 1 s; the operator has not looked at it yet"):
        cluster.wait(scoring(3), timeout_s=1)
    write_status(plane, "Stalled", "NoCommonAccelerator", 2)
    with pytest.raises(bw.NotReached) as failed:
        cluster.wait(scoring(3), timeout_s=60)
    assert failed.value.reason == "NoCommonAccelerator"

    cluster.delete(scoring())
    cluster.delete(scoring())
    assert not plane.api.exists(PATH)


def test_what_others_manage_is_taken_over_by_force_alone(cluster: bw.Cluster, plane: ControlPlane) -> None:
    from kubernetes.client import ApiException

    cluster.apply(scoring(2))
    plane.api.request("PATCH", PATH, {"spec": {"replicas": 5}}, kind=MERGE)
    with pytest.raises(ApiException) as conflict:
        cluster.apply(scoring(2))
    assert conflict.value.status == 409
    assert cluster.apply(scoring(2), force=True)["spec"]["replicas"] == 2
    cluster.delete(scoring())
