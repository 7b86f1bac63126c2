"""ModelDeployments on a real API server with its controller manager: children, garbage collection, silence."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchwright_operator.kube.objects import Raw
from batchwright_operator.pods.refusals import with_remedy
from batchwright_operator.settings import Settings, WeightsCache
from e2e.cluster import ControlPlane
from e2e.cluster.control_plane import audit
from tests.deployments.deployment_objects import NAMESPACE, samples
from tests.deployments.kstatus import kstatus
from tests.deployments.real_api import OPERATOR, Kubectl, eventually, namespace, operator, service_account
from tests.deployments.test_rendering import children

pytestmark = pytest.mark.apiserver
RECONCILER = "batchwright_operator.deployments.reconciler:ModelDeploymentReconciler"


@pytest.fixture(scope="session")
def shop(with_crds: Kubectl) -> str:
    """The users' namespace, Pod Security restricted enforced."""
    namespace(with_crds, NAMESPACE)
    eventually(
        lambda: with_crds("-n", NAMESPACE, "get", "serviceaccount", "default", check=False).returncode == 0,
        "the default ServiceAccount",
    )
    return NAMESPACE


@pytest.mark.parametrize("name", sorted(samples()))
def test_the_api_server_takes_every_child_and_pod_security_every_pod(name: str, shop: str, with_crds: Kubectl) -> None:
    done = dry_run(children(samples()[name]), name, shop, with_crds)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr


CACHES: dict[str, dict[str, Any]] = {
    "claim": {"claim_name": "models"},
    "csi": {"csi": {"driver": "local.example.org"}},
    "folder": {"host_path": "/var/lib/weights"},
}


@pytest.mark.parametrize("where", CACHES)
def test_pod_security_takes_pods_with_a_cache_that_is_no_folder_of_the_node(
    where: str, shop: str, with_crds: Kubectl
) -> None:
    settings = Settings(worker_image="example.org/worker:1", weights_cache=WeightsCache(**CACHES[where]))
    done = dry_run(children(samples()["fetched"], settings), "fetched", shop, with_crds)
    if where != "folder":
        assert (done.returncode, done.stderr) == (0, "")
        return
    assert 'restricted volume type "hostPath"' in done.stderr
    assert "the level that the namespace enforces" in with_remedy(done.stderr)


def dry_run(bodies: list[Raw], name: str, shop: str, with_crds: Kubectl) -> Any:
    """What kubectl says of these children and of their pod."""
    pods = []
    for body in bodies:
        del body["metadata"]["ownerReferences"]
        if body["kind"] == "Deployment":
            pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", **body["spec"]["template"]}
            pods.append({**pod, "metadata": {**pod["metadata"], "name": name, "namespace": shop}})
    assert len(pods) == 1
    text = yaml.safe_dump_all([*bodies, *pods])
    return with_crds("apply", "--server-side", "--dry-run=server", "-f", "-", text=text, check=False)


def test_a_server_that_does_not_know_image_volumes_says_so_and_mounts_nothing_else(
    shop: str, with_crds: Kubectl
) -> None:
    """Any server is one that lacks some field: what it says of this one is what an older says of `image`."""
    [body] = [each for each in children(samples()["image-volumes"]) if each["kind"] == "Deployment"]
    del body["metadata"]["ownerReferences"]
    for volume in body["spec"]["template"]["spec"]["volumes"]:
        if "image" in volume:
            volume["later_image"] = volume.pop("image")
    done = with_crds("apply", "--server-side", "--dry-run=server", "-f", "-", text=yaml.safe_dump(body), check=False)
    assert done.returncode != 0
    assert "this cluster has no image volumes" in with_remedy(done.stderr)


@pytest.fixture
def running(shop: str, with_crds: Kubectl, control_plane: ControlPlane, tmp_path: Path) -> Iterator[Path]:
    """The operator with this reconciler; its log's folder."""
    with operator(service_account(with_crds, control_plane), tmp_path, RECONCILER):
        yield tmp_path


def test_children_appear_stay_untouched_and_go_with_their_owner(
    running: Path, shop: str, with_crds: Kubectl, control_plane: ControlPlane
) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models", "namespace": shop},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    with_crds("apply", "-f", "-", text=claim)
    raw = samples()["cpu-claim"]
    del raw["status"], raw["metadata"]["uid"], raw["metadata"]["generation"]
    with_crds("apply", "-f", "-", text=raw)

    def found(kinds: str) -> list[dict[str, Any]]:
        done = with_crds("-n", shop, "get", kinds, "-l", "batchwright.dev/deployment=cpu-claim", "-o", "json")
        return list(json.loads(done.stdout)["items"])

    kinds = "deployments,controllerrevisions,configmaps,secrets,services,poddisruptionbudgets,networkpolicies,pods"
    wanted = ["ConfigMap", "ControllerRevision", "Deployment", "NetworkPolicy", "Pod", "PodDisruptionBudget", "Secret"]
    wanted += ["Service", "Service"]
    eventually(lambda: sorted(each["kind"] for each in found(kinds)) == wanted, "all children and the gated pod")

    def get() -> dict[str, Any]:
        return dict(json.loads(with_crds("-n", shop, "get", "mdep", "cpu-claim", "-o", "json").stdout))

    def waits_for_placement() -> bool:
        return bool(get()["status"].get("summary", {}).get("reason") == "AwaitingPlacement")

    eventually(waits_for_placement, "a status that tells what is missing")
    [pod] = found("pods")
    assert pod["spec"]["schedulingGates"] == [{"name": "batchwright.dev/placement"}]
    assert kstatus(get()) == "InProgress"

    def is_touched_in_vain() -> bool:
        """The last words of what went before may still be on their way, the first time."""
        since, label = datetime.now(UTC), f"touched=at-{time.monotonic_ns()}"
        with_crds("-n", shop, "label", "--overwrite", "mdep", "cpu-claim", label)
        with_crds("-n", shop, "label", "--overwrite", "pod", pod["metadata"]["name"], label)
        eventually(lambda: touched(control_plane, since), "the two labels in the audit log")
        return audit_writes(control_plane, since) == []

    eventually(is_touched_in_vain, "silence")
    with_crds("-n", shop, "delete", "mdep", "cpu-claim", "--wait=true")
    # at once, while the garbage collector still looks at the old one's children
    with_crds("apply", "-f", "-", text=raw)
    uid = get()["metadata"]["uid"]

    def owned() -> bool:
        own = [each for each in found(kinds) if each["kind"] != "Pod"]
        owners = [each["metadata"]["ownerReferences"][0]["uid"] for each in own]
        return sorted(each["kind"] for each in own) == [kind for kind in wanted if kind != "Pod"] and {*owners} == {uid}

    eventually(owned, "all children in the hands of the new object")
    with_crds("-n", shop, "delete", "mdep", "cpu-claim", "--wait=true")
    # the garbage collector looks for kinds that are new to it (our CRDs) every 30 s
    eventually(lambda: not found(kinds), "everything garbage-collected", within_s=150.0)
    log = (running / "operator.log").read_text()
    assert "Traceback" not in log, log


def audit_writes(plane: ControlPlane, since: datetime) -> list[Any]:
    """The operator's own writes, Lease and Events aside."""
    found = audit.writes(plane.audit_log_path, user=OPERATOR, since=since)
    return [each for each in found if getattr(each, "resource", "") not in ("leases", "events")]


def touched(plane: ControlPlane, since: datetime) -> bool:
    """Have the test's own writes passed through the API server?"""
    return len(list(audit.writes(plane.audit_log_path, since=since))) >= 2
