"""Children that others have changed in ways that server-side apply alone does not bring back, on a real API server:
what is edited so that ours beside it would be invalid, what has lost its owner, what an orphaning deletion has left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchwright_operator.kube.client import path_of
from batchwright_operator.kube.objects import (
    CONFIG_MAP,
    DEPLOYMENT,
    INFERENCE_JOB,
    JOB,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    PDB,
    POD,
    PVC,
    SERVICE,
    Raw,
    Resource,
)
from batchwright_worker.api.names import LABEL_DEPLOYMENT, LABEL_JOB
from e2e.cluster import ApiError, ControlPlane
from tests.deployments import foreign
from tests.deployments.real_api import Kubectl, eventually, namespace, operator, service_account
from tests.deployments.test_ownership import RECONCILERS, wanted, wanted_job

pytestmark = pytest.mark.apiserver
PLACE = "odd"


class Cluster:
    """What the tests ask of the API server, in one namespace."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane, self.api = plane, plane.api

    def make(self, raw: Raw, resource: Resource = MODEL_DEPLOYMENT) -> Raw:
        raw["metadata"]["namespace"] = PLACE
        return self.api.request("POST", path_of(resource, PLACE), raw)

    def change(self, resource: Resource, name: str, patch: Raw, how: str = "merge") -> None:
        self.api.patch(path_of(resource, PLACE, name), patch, how=how)

    def read(self, resource: Resource, name: str) -> Raw | None:
        return foreign.read(self.plane, resource.kind, PLACE, name)

    def says(self, resource: Resource, name: str, *path: str) -> Any:
        """What stands there; None while there is no such object."""
        found: Any = self.read(resource, name)
        for each in path:
            found = (found or {}).get(each)
        return found

    def of(self, name: str, label: str = LABEL_DEPLOYMENT) -> dict[tuple[Resource, str], Raw]:
        """Every child of a ModelDeployment, or of an InferenceJob (LABEL_JOB), by its labels."""
        return {
            (resource, each["metadata"]["name"]): each
            for resource in foreign.RESOURCES.values()
            for each in self.api.get(f"{path_of(resource, PLACE)}?labelSelector={label}={name}")["items"]
        }

    def pods(self, name: str) -> set[str]:
        path = f"{path_of(POD, PLACE)}?labelSelector={LABEL_DEPLOYMENT}={name}"
        return {each["metadata"]["uid"] for each in self.api.get(path)["items"]}

    def leave_behind(self, resource: Resource, name: str, children: Iterable[tuple[Resource, str]]) -> None:
        """What `kubectl delete --cascade=orphan` and the garbage collector do, which looks for our kinds every 30 s."""
        path = path_of(resource, PLACE, name)
        self.api.delete(f"{path}?propagationPolicy=Orphan")
        for each in children:
            self.change(*each, {"metadata": {"ownerReferences": None}})
        if self.api.exists(path):
            with suppress(ApiError):  # it has done so by now
                self.change(resource, name, {"metadata": {"finalizers": None}})
        eventually(lambda: not self.api.exists(path), f"the end of {name}")

    def settled(self, name: str) -> dict[tuple[Resource, str], Raw]:
        """All children, once there is a pod: the Deployment is the last one to be made."""
        eventually(lambda: self.pods(name), f"the pod of {name}")
        return self.of(name)


@pytest.fixture(scope="module")
def cluster(
    with_crds: Kubectl, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("operator")
    namespace(with_crds, PLACE)
    storage = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    control_plane.api.request("POST", path_of(PVC, PLACE), {"metadata": {"name": "data"}, "spec": storage})
    with operator(service_account(with_crds, control_plane), folder, *RECONCILERS, BATCHWRIGHT_RESYNC_SECONDS="3"):
        yield Cluster(control_plane)
    assert "Traceback" not in (folder / "operator.log").read_text()


def test_what_is_edited_into_something_that_ours_cannot_be_beside_comes_back(cluster: Cluster) -> None:
    name = "edited"
    cluster.make(wanted(name, strategy={"type": "Recreate"}))
    children = cluster.settled(name)
    [deployment] = [child for resource, child in children if resource == DEPLOYMENT]
    [config] = [child for resource, child in children if resource == CONFIG_MAP]
    pods = cluster.pods(name)
    spec_of = partial(cluster.says, DEPLOYMENT, deployment, "spec")
    before = spec_of()
    cluster_ip = cluster.says(SERVICE, name, "spec", "clusterIP")
    ports = [{"name": "http", "port": 80, "targetPort": 8000}, {"name": "grpc", "port": 8001}]
    cluster.change(SERVICE, name, {"spec": {"ports": ports}})
    cluster.change(PDB, name, {"spec": {"maxUnavailable": None, "minAvailable": 1}})
    cluster.change(NETWORK_POLICY, name, {"spec": {"egress": [], "policyTypes": ["Egress"]}})
    bounds = {"maxSurge": 3, "maxUnavailable": 0}
    cluster.change(DEPLOYMENT, deployment, {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": bounds}}})
    cluster.change(DEPLOYMENT, deployment, {"spec": {"paused": True}})
    cluster.change(CONFIG_MAP, config, {"immutable": True})
    latency = {"spec": {"models": [wanted(name)["spec"]["models"][0] | {"targets": {"latencyMilliseconds": 50}}]}}
    cluster.change(MODEL_DEPLOYMENT, name, latency)

    def port_numbers() -> list[int]:
        return [each["port"] for each in cluster.says(SERVICE, name, "spec", "ports")]

    checks: dict[str, Callable[[], Any]] = {
        "ports": lambda: port_numbers() == [8000, 8001],
        "budget": lambda: cluster.says(PDB, name, "spec", "maxUnavailable") == 1,
        "no other budget": lambda: cluster.says(PDB, name, "spec", "minAvailable") is None,
        "policy": lambda: cluster.says(NETWORK_POLICY, name, "spec", "policyTypes") == ["Ingress"],
        "strategy": lambda: spec_of()["strategy"] == {"type": "Recreate"},
        "not paused": lambda: not spec_of().get("paused"),
        "configuration": lambda: "50" in (cluster.says(CONFIG_MAP, config, "data", "deployment.json") or ""),
    }
    for what, check in checks.items():
        eventually(check, f"{what} as it was")
    assert cluster.says(SERVICE, name, "spec", "clusterIP") == cluster_ip, "it is the same Service"
    assert spec_of()["template"] == before["template"]
    assert cluster.pods(name) == pods
    extra: Raw = {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "debug", "image": "debug"}]}
    extra["initContainers"] = [{"name": "sidecar", "env": [{"name": "DEBUG", "value": "1"}]}]
    head = {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-12-01T00:00:00Z"}}
    edit = {"spec": {"template": {"metadata": head, "spec": extra}}}
    cluster.api.patch(f"{path_of(DEPLOYMENT, PLACE, deployment)}?fieldManager=kubectl-edit", edit, how="strategic")
    eventually(lambda: spec_of()["template"]["spec"] == before["template"]["spec"], "the template as it was")
    assert spec_of()["template"]["metadata"]["annotations"].items() >= head["annotations"].items(), "a restart stays"

    def told() -> list[str]:
        events = cluster.api.get(f"/apis/events.k8s.io/v1/namespaces/{PLACE}/events")["items"]
        return [each["note"] for each in events if each["reason"] == "TemplateRestored"]

    eventually(told, "an Event that says so")
    assert "containers[debug], initContainers[sidecar].env[DEBUG], nodeSelector (by kubectl-edit)" in told()[0]
    template = {"spec": {"template": {"spec": {"volumes": [{"name": "config", "configMap": None, "emptyDir": {}}]}}}}
    cluster.change(DEPLOYMENT, deployment, template, how="strategic")
    eventually(lambda: spec_of()["template"]["spec"] == before["template"]["spec"], "the volumes as they were")
    cluster.api.delete(path_of(MODEL_DEPLOYMENT, PLACE, name))


def test_what_an_admission_policy_adds_to_a_pod_template_stays_and_is_not_fought_over(cluster: Cluster) -> None:
    policies = "/apis/admissionregistration.k8s.io/v1"
    head = {"metadata": {"name": "dedicated.example.org"}}
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
            "resources": ["deployments"]}  # fmt: skip
    added = "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{hostname: 'x'}}}}"
    policy = head | {"spec": {
        "matchConstraints": {"resourceRules": [rule]}, "failurePolicy": "Fail", "reinvocationPolicy": "Never",
        "matchConditions": [{"name": "ours", "expression": "object.metadata.name.startsWith('mutated-')"}],
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": added}}],
    }}  # fmt: skip
    cluster.api.request("POST", f"{policies}/mutatingadmissionpolicies", policy)
    binding = head | {"spec": {"policyName": "dedicated.example.org"}}
    cluster.api.request("POST", f"{policies}/mutatingadmissionpolicybindings", binding)
    dry = f"{path_of(DEPLOYMENT, PLACE)}?dryRun=All"
    labels = {"matchLabels": {"app": "x"}}
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    body = {"metadata": {"name": "mutated-dry"}, "spec": {"selector": labels, "template": template}}

    def is_at_work() -> bool:
        return cluster.api.request("POST", dry, body)["spec"]["template"]["spec"].get("hostname") == "x"

    eventually(is_at_work, "the policy at work")
    try:
        cluster.make(wanted("mutated"))
        children = cluster.settled("mutated")
        [deployment] = [child for resource, child in children if resource == DEPLOYMENT]
        before = cluster.read(DEPLOYMENT, deployment)
        assert before is not None
        assert before["spec"]["template"]["spec"]["hostname"] == "x"
        path = path_of(DEPLOYMENT, PLACE, deployment)
        edit = {"spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}}
        cluster.api.patch(f"{path}?fieldManager=kubectl-edit", edit)
        template_of = partial(cluster.says, DEPLOYMENT, deployment, "spec", "template", "spec")
        eventually(lambda: "nodeSelector" not in template_of(), "what a person added is gone")
        cluster.change(DEPLOYMENT, deployment, {"metadata": {"annotations": {"seen": "1"}}})
        since = cluster.says(DEPLOYMENT, deployment, "metadata", "generation")
        cluster.change(MODEL_DEPLOYMENT, "mutated", {"spec": {"replicas": 2}})
        eventually(lambda: cluster.says(DEPLOYMENT, deployment, "spec", "replicas") == 2, "the next spec")
        assert template_of()["hostname"] == "x"
        assert cluster.says(DEPLOYMENT, deployment, "metadata", "generation") == since + 1, "written once"
    finally:
        for kind in ("mutatingadmissionpolicybindings", "mutatingadmissionpolicies"):
            cluster.api.delete(f"{policies}/{kind}/dedicated.example.org")
        cluster.api.delete(path_of(MODEL_DEPLOYMENT, PLACE, "mutated"))


def owners(obj: Raw | None) -> list[str]:
    return [each["uid"] for each in ((obj or {}).get("metadata") or {}).get("ownerReferences") or ()]


@pytest.mark.parametrize("how", ["by-hand", "by-deletion"])
def test_what_has_lost_its_owner_is_taken_over_and_no_pod_is_replaced(how: str, cluster: Cluster) -> None:
    name = f"orphan-{how}"
    cluster.make(wanted(name))
    children = cluster.settled(name)
    pods = cluster.pods(name)
    if how == "by-hand":
        for resource, child in children:
            cluster.change(resource, child, {"metadata": {"ownerReferences": None}})
    else:
        cluster.leave_behind(MODEL_DEPLOYMENT, name, children)
        cluster.make(wanted(name))
    uid = cluster.api.get(path_of(MODEL_DEPLOYMENT, PLACE, name))["metadata"]["uid"]
    for resource, child in children:
        eventually(lambda one=resource, other=child: owners(cluster.read(one, other)) == [uid], f"{child} taken over")
    after = cluster.of(name)
    for at, before in children.items():
        assert after[at]["metadata"]["uid"] == before["metadata"]["uid"]
    assert cluster.pods(name) == pods
    status = cluster.api.get(path_of(MODEL_DEPLOYMENT, PLACE, name)).get("status") or {}
    assert "NameTaken" not in json.dumps(status)
    cluster.api.delete(path_of(MODEL_DEPLOYMENT, PLACE, name))


def test_what_a_job_left_behind_is_refused_since_its_runners_may_be_at_work(cluster: Cluster) -> None:
    resource = INFERENCE_JOB
    cluster.make(wanted_job("left"), resource)
    eventually(lambda: cluster.read(JOB, "left-plan"), "its first Job")
    cluster.leave_behind(resource, "left", cluster.of("left", label=LABEL_JOB))
    cluster.make(wanted_job("left"), resource)

    def reason() -> str:
        status = cluster.api.get(path_of(resource, PLACE, "left")).get("status") or {}
        return str(status.get("summary", {}).get("reason", ""))

    eventually(lambda: reason() == "NameTaken", "a status that says so")
    cluster.api.delete(path_of(resource, PLACE, "left"))
