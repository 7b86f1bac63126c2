"""The admission policy of manifests/base on a real API server: the operator may touch its own objects alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batchwright_operator.kube.client import path_of
from batchwright_operator.kube.objects import MODEL_DEPLOYMENT, POD, REPLICA_SET, Raw
from e2e.cluster import ApiError, ControlPlane
from e2e.cluster.control_plane.api import Api
from e2e.cluster.machine.waiting import wait_until
from tests.deployments import foreign
from tests.manifests.conftest import ROOT

pytestmark = pytest.mark.apiserver
USER = "system:serviceaccount:batchwright-system:batchwright-operator"
NAMESPACE = "tied"
OWNER = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment", "name": "m", "controller": True}
every_kind = pytest.mark.parametrize("kind", sorted(foreign.RESOURCES))


@pytest.fixture(scope="module")
def plane_with_policy(plane: ControlPlane, kubectl: Callable[..., Any]) -> ControlPlane:
    """manifests/base, with the policy in force, and a namespace with a ModelDeployment `m`."""
    kubectl("apply", "--server-side", "-k", str(ROOT / "manifests" / "base"))
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd/modeldeployments.batchwright.dev")
    kubectl("create", "namespace", NAMESPACE)
    artifact = {"accelerator": "batchwright.dev/emulated", "format": "emulated", "emulated": {}}
    spec = {"models": [{"name": "echo", "artifacts": [artifact]}]}
    body = {"apiVersion": OWNER["apiVersion"], "kind": "ModelDeployment", "metadata": {"name": "m"}, "spec": spec}
    wait_until(lambda: plane.api.exists(path_of(MODEL_DEPLOYMENT, NAMESPACE)), timeout_s=60, interval_s=0.3)
    plane.api.request("POST", path_of(MODEL_DEPLOYMENT, NAMESPACE), body)
    probe = foreign.make(plane, "ConfigMap", NAMESPACE, "probe")
    path = path_of(foreign.RESOURCES["ConfigMap"], NAMESPACE, probe["metadata"]["name"])
    assert wait_until(lambda: "may change" in refusal(lambda: operator(plane).patch(path, {})), timeout_s=60)
    return plane


def operator(plane: ControlPlane) -> Api:
    """A client with the operator's identity."""
    return Api(plane.server_url, plane.ca_path, plane.authority.client("tied", USER))


def refusal(call: Callable[[], object]) -> str:
    """What the API server says against it; empty if it takes it."""
    try:
        call()
    except ApiError as error:
        return str(error)
    return ""


def owned(plane: ControlPlane) -> Raw:
    """Metadata of a child of `m`."""
    uid = plane.api.get(path_of(MODEL_DEPLOYMENT, NAMESPACE, "m"))["metadata"]["uid"]
    return {"ownerReferences": [{**OWNER, "uid": uid}]}


@every_kind
def test_an_object_of_somebody_else_can_neither_be_changed_nor_taken_nor_deleted(
    kind: str, plane_with_policy: ControlPlane
) -> None:
    plane = plane_with_policy
    made = foreign.make(plane, kind, NAMESPACE, "theirs")
    before = foreign.text(made)
    api, path = operator(plane), path_of(foreign.RESOURCES[kind], NAMESPACE, "theirs")
    resource = foreign.RESOURCES[kind]
    taken = {"apiVersion": resource.api_version, "kind": kind, "metadata": {"name": "theirs", **owned(plane)}}
    taken |= {"data": made["data"]} if kind == "ControllerRevision" else {}  # which nobody may change
    calls: list[Callable[[], object]] = [
        lambda: api.patch(path, {"metadata": {"labels": {"mine": "now"}}}),
        lambda: api.patch(path, {"metadata": owned(plane)}),
        lambda: api.patch(f"{path}?fieldManager=batchwright-operator&force=true", taken, how="apply"),
        lambda: api.patch(f"{path}?dryRun=All", {}),
    ]
    if kind != "Secret":  # it has no right to delete those
        calls.append(lambda: api.delete(path))
    for call in calls:
        assert "may change and delete only what a ModelDeployment or an InferenceJob controls" in refusal(call)
    assert foreign.text(foreign.read(plane, kind, NAMESPACE, "theirs")) == before
    assert plane.api.patch(path, {"metadata": {"labels": {"by": "its-owner"}}})


@every_kind
def test_children_can_be_made_changed_and_deleted(kind: str, plane_with_policy: ControlPlane) -> None:
    plane, resource = plane_with_policy, foreign.RESOURCES[kind]
    made = foreign.make(plane, kind, NAMESPACE, "ours", **owned(plane))
    body = {name: made[name] for name in made if name not in {"metadata", "status"}}
    api, path = operator(plane), path_of(resource, NAMESPACE, "ours")
    plane.api.delete(f"{path}?propagationPolicy=Background")
    assert wait_until(lambda: foreign.read(plane, kind, NAMESPACE, "ours") is None, timeout_s=60)
    spec = body.get("spec", {})
    for name in ("clusterIP", "clusterIPs", "selector" if kind == "Job" else ""):
        spec.pop(name, None)
    if kind == "Job":
        spec["template"].pop("metadata", None)
    orphan = {**body, "metadata": {"name": "ours", "namespace": NAMESPACE}}
    assert "may make only" in refusal(lambda: api.request("POST", path_of(resource, NAMESPACE), orphan))
    api.request("POST", path_of(resource, NAMESPACE), {**orphan, "metadata": {**orphan["metadata"], **owned(plane)}})
    api.patch(path, {"metadata": {"labels": {"a": "b"}}})
    assert "may make only" in refusal(lambda: api.patch(path, {"metadata": {"ownerReferences": None}}))
    if kind != "Secret":
        api.delete(f"{path}?propagationPolicy=Background")


def test_only_pods_of_a_model_deployment_and_only_those_without_a_node(plane_with_policy: ControlPlane) -> None:
    plane = plane_with_policy
    assert wait_until(lambda: plane.api.exists(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default"), timeout_s=60)
    labels = {"app.kubernetes.io/component": "model"}
    pods = {"containers": [{"name": "c", "image": "none"}], "schedulingGates": [{"name": "batchwright.dev/placement"}]}
    template = {"metadata": {"labels": labels}, "spec": pods}
    replicas = {"metadata": {"name": "rs"}, "spec": {"replicas": 1, "selector": {"matchLabels": labels}}}
    replicas["spec"]["template"] = template
    plane.api.request("POST", path_of(REPLICA_SET, NAMESPACE), replicas)
    assert wait_until(lambda: len(plane.api.get(path_of(POD, NAMESPACE))["items"]) == 1, timeout_s=60)
    [pod] = plane.api.get(path_of(POD, NAMESPACE))["items"]
    plane.api.request("POST", path_of(POD, NAMESPACE), {"metadata": {"name": "theirs"}, "spec": pods})
    api, mine = operator(plane), path_of(POD, NAMESPACE, pod["metadata"]["name"])
    theirs = path_of(POD, NAMESPACE, "theirs")
    said = "may change and delete only pods of a ModelDeployment"
    assert said in refusal(lambda: api.patch(theirs, {"metadata": {"labels": labels}}))
    assert said in refusal(lambda: api.delete(theirs))
    api.patch(mine, {"metadata": {"annotations": {"batchwright.dev/placement-waiting": "NoFit: yet"}}})
    for change in (
        {"phase": "Succeeded"},
        {"podIP": "10.0.0.9"},
        {"conditions": [{"type": "Ready", "status": "True"}]},
    ):
        said = refusal(lambda change=change: api.patch(f"{mine}/status", {"status": change}))  # type: ignore[misc]
        assert "may nominate a node for a pod, and change nothing else" in said
    api.patch(f"{mine}/status", {"status": {"nominatedNodeName": "node-a"}})
    assert "may change and delete only pods" in refusal(
        lambda: api.patch(f"{theirs}/status", {"status": {"nominatedNodeName": "node-a"}})
    )
    api.delete(mine)


def test_the_control_key_is_the_one_object_without_an_owner(plane_with_policy: ControlPlane) -> None:
    api, secrets = operator(plane_with_policy), "/api/v1/namespaces/batchwright-system/secrets"
    body: dict[str, Any] = {"metadata": {"name": "batchwright-control-key"}, "data": {"key": "QUJD"}}
    api.request("POST", f"{secrets}?dryRun=All", body)
    other = {**body, "metadata": {"name": "another"}}
    assert "may make only" in refusal(lambda: api.request("POST", f"{secrets}?dryRun=All", other))
