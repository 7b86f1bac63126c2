"""An InferenceJob on a real API server and Job controller, from plan over shards to commit; the test is the kubelet."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from batchwright_operator.kube.objects import Raw
from batchwright_worker.api.messages import CommitResult, PlanResult
from e2e.cluster import ControlPlane
from e2e.cluster.control_plane import audit
from tests.deployments.deployment_objects import NAMESPACE, deployment
from tests.deployments.kstatus import kstatus
from tests.deployments.real_api import OPERATOR, Kubectl, eventually, namespace, operator, service_account
from tests.jobs.job_objects import job, runner
from tests.jobs.test_job_rendering import children, jobs

pytestmark = pytest.mark.apiserver
RECONCILER = "batchwright_operator.jobs.reconciler:InferenceJobReconciler"


@pytest.fixture(scope="session")
def shop(with_crds: Kubectl) -> str:
    """The users' namespace, Pod Security restricted enforced."""
    namespace(with_crds, NAMESPACE)
    eventually(
        lambda: with_crds("-n", NAMESPACE, "get", "serviceaccount", "default", check=False).returncode == 0,
        "the default ServiceAccount",
    )
    return NAMESPACE


@pytest.fixture
def running(shop: str, with_crds: Kubectl, control_plane: ControlPlane, tmp_path: Path) -> Iterator[Path]:
    """The operator with this reconciler; its log's folder."""
    with operator(service_account(with_crds, control_plane), tmp_path, RECONCILER):
        yield tmp_path


@pytest.mark.parametrize("name", sorted(jobs()))
def test_the_api_server_takes_every_child_and_pod_security_every_pod(name: str, shop: str, with_crds: Kubectl) -> None:
    bodies = children(jobs()[name])
    for body in bodies:
        del body["metadata"]["ownerReferences"]
    template = next(body for body in bodies if body["kind"] == "Job")["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {**template["metadata"], "name": name}}
    pod["metadata"]["namespace"] = shop
    text = yaml.safe_dump_all([*bodies, pod])
    done = with_crds("apply", "--server-side", "--dry-run=server", "-f", "-", text=text)
    assert "Warning" not in done.stderr, done.stderr


class Kubelet:
    """Ends pods with the messages that runners leave."""

    def __init__(self, kubectl: Kubectl, place: str) -> None:
        self.kubectl = kubectl
        self.place = place

    def get(self, what: str, name: str = "") -> Any:
        return json.loads(self.kubectl("-n", self.place, "get", what, *([name] if name else []), "-o", "json").stdout)

    def job(self) -> dict[str, Any]:
        return dict(self.get("infjob", "pages"))

    def reason(self) -> str:
        return str((self.job()["status"].get("summary") or {}).get("reason", ""))

    def pods(self, step: str) -> list[dict[str, Any]]:
        """Pods of a step that have not ended."""
        text = self.kubectl("-n", self.place, "get", "pods", "-l", f"batchwright.dev/step={step}", "-o", "json").stdout
        found = [each for each in json.loads(text)["items"] if each["status"]["phase"] not in ("Succeeded", "Failed")]
        return [each for each in found if "deletionTimestamp" not in each["metadata"]]

    def end(self, pod: dict[str, Any], message: Any, code: int = 0) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        text = msgspec.json.encode(message).decode()
        ended = {"exitCode": code, "message": text, "startedAt": now, "finishedAt": now}
        container = {"name": "runner", "image": "i", "imageID": "", "restartCount": 0, "ready": False}
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [container | {"state": {"terminated": ended}}],
        }
        patch = json.dumps({"status": status})
        name = pod["metadata"]["name"]
        self.kubectl("-n", self.place, "patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch)


@pytest.fixture
def kubelet(shop: str, with_crds: Kubectl, running: Path) -> Kubelet:
    """With the job's data claim, its ModelDeployment, and nothing of an earlier test."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": shop},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    with_crds("apply", "-f", "-", text=claim)
    with_crds("apply", "-f", "-", text=_by_user(deployment()))
    return Kubelet(with_crds, shop)


def _by_user(raw: Raw) -> Raw:
    return {**raw, "metadata": {"name": raw["metadata"]["name"], "namespace": NAMESPACE}, "status": {}}


def test_from_plan_over_shards_to_commit(
    kubelet: Kubelet, with_crds: Kubectl, control_plane: ControlPlane, running: Path
) -> None:
    with_crds("apply", "-f", "-", text=_by_user(job()))
    plan = eventually(lambda: kubelet.pods("plan"), "the plan pod")[0]
    assert kubelet.reason() == "Planning"
    kubelet.end(plan, PlanResult(items=15, shards=2, digest="d"))
    first, second = eventually(lambda: len(found := kubelet.pods("run")) == 2 and found, "a pod per shard")
    kubelet.end(second, runner(_index(second), 0, error="killed"), code=1)
    kubelet.end(first, runner(_index(first), 9, 1, done=True))
    eventually(lambda: kubelet.job()["status"].get("progressPercentage") == 66, "progress by the last words of a shard")
    assert kstatus(kubelet.job()) == "Current"
    again = eventually(lambda: kubelet.pods("run"), "the second attempt, after the back-off", within_s=150.0)[0]
    kubelet.end(again, runner(_index(again), 5, done=True))
    commit = eventually(lambda: kubelet.pods("commit"), "the commit pod")[0]
    kubelet.end(commit, CommitResult(items=15, succeeded=14, failed=1, digest="d"))
    eventually(lambda: kubelet.reason() == "Completed", "completion")
    status = kubelet.job()["status"]
    assert status["items"] == {"total": 15, "succeeded": 14, "failed": 1}
    assert status["shards"] == {"total": 2, "completedIndexes": "0,1", "failedIndexes": ""}
    assert [each["type"] for each in status["conditions"] if each["status"] == "True"] == ["Complete"]

    def reasons() -> set[str]:
        about = ("--field-selector", "involvedObject.name=pages")
        events = with_crds("-n", NAMESPACE, "get", "events", *about, "-o", "json")
        return {each["reason"] for each in json.loads(events.stdout)["items"]}

    eventually(lambda: reasons() >= {"Planned", "Completed"}, "the Events, which come behind the status")
    _no_further_write(control_plane, with_crds)
    with_crds("-n", NAMESPACE, "delete", "infjob", "pages", "--wait=true")
    assert "Traceback" not in (running / "operator.log").read_text()


def _index(pod: dict[str, Any]) -> int:
    return int(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])


def _no_further_write(plane: ControlPlane, kubectl: Kubectl) -> None:
    """What the user touches now makes the operator look again, and write nothing but the acknowledgement of a new
    generation."""
    since = datetime.now(UTC)
    kubectl("-n", NAMESPACE, "label", "infjob", "pages", "touched=yes")
    kubectl("-n", NAMESPACE, "patch", "infjob", "pages", "--type=merge", "-p", '{"spec": {"parallelism": 7}}')

    def written() -> list[str]:
        found = audit.writes(plane.audit_log_path, user=OPERATOR, since=since)
        return [each.resource for each in found if each.resource not in ("leases", "events")]

    eventually(written, "the acknowledgement")
    time.sleep(2.0)  # nothing can wake a test for what must not happen
    assert written() == ["inferencejobs/status"]


def test_suspend_resume_a_plan_that_fails_and_the_end_of_its_time_to_live(kubelet: Kubelet, with_crds: Kubectl) -> None:
    raw = _by_user(job("pages", suspend=True, ttlSecondsAfterFinished=5))
    with_crds("apply", "-f", "-", text=raw)
    eventually(lambda: kubelet.reason() == "Suspended", "suspension")
    assert kubelet.pods("plan") == []
    with_crds("-n", NAMESPACE, "patch", "infjob", "pages", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    plan = eventually(lambda: kubelet.pods("plan"), "the plan pod")[0]
    with_crds("-n", NAMESPACE, "patch", "infjob", "pages", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    eventually(lambda: not kubelet.pods("plan"), "the plan pod gone")
    assert plan
    with_crds("-n", NAMESPACE, "patch", "infjob", "pages", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    plan = eventually(lambda: kubelet.pods("plan"), "another plan pod")[0]
    kubelet.end(plan, PlanResult(error="no such directory; correct spec.input.uri", reason="InputNotFound"), code=42)
    eventually(lambda: kubelet.reason() == "InputNotFound", "failure")
    assert kstatus(kubelet.job()) == "Failed"
    gone = eventually(
        lambda: with_crds("-n", NAMESPACE, "get", "infjob", "pages", check=False).returncode, "the job gone by itself"
    )
    assert gone == 1


def test_a_name_that_is_taken_is_said_and_a_job_made_anew_does_not_wait_for_the_garbage_collector(
    kubelet: Kubelet, with_crds: Kubectl
) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
    head = {"name": "again-plan", "namespace": NAMESPACE}
    others = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": head,
        "spec": {"suspend": True, "template": template},
    }
    with_crds("apply", "-f", "-", text=others)
    with_crds("apply", "-f", "-", text=_by_user(job("again")))

    def stalled() -> str:
        conditions = kubelet.get("infjob", "again")["status"].get("conditions") or ()
        return next(
            (each["message"] for each in conditions if (each["type"], each["status"]) == ("Stalled", "True")), ""
        )

    said = eventually(stalled, "the refusal in the status")
    assert "Job again-plan" in said
    assert "which has no controller; it is left as it is: delete or rename it" in said
    with_crds("-n", NAMESPACE, "delete", "job", "again-plan")

    def plan(uid: str) -> list[dict[str, Any]]:
        owners = {
            each["metadata"]["uid"]: each["metadata"]["ownerReferences"][0] for each in kubelet.get("jobs")["items"]
        }
        found = [(each, owners.get(each["metadata"]["ownerReferences"][0]["uid"])) for each in kubelet.pods("plan")]
        return [each for each, owner in found if owner and owner["uid"] == uid]

    old = kubelet.get("infjob", "again")["metadata"]["uid"]
    [pod] = eventually(lambda: plan(old), "the plan pod, once the name is free")
    kubelet.end(pod, PlanResult(items=15, shards=2, digest="d"))
    eventually(lambda: len(kubelet.pods("run")) == 2, "a pod per shard")
    with_crds("-n", NAMESPACE, "delete", "infjob", "again", "--wait=true")
    with_crds("apply", "-f", "-", text=_by_user(job("again")))
    new = kubelet.get("infjob", "again")["metadata"]["uid"]
    eventually(lambda: plan(new), "the plan pod of the new job", within_s=25.0)
    eventually(lambda: kubelet.get("infjob", "again")["status"]["summary"]["reason"] == "Planning", "its status")
    assert kubelet.get("infjob", "again")["status"]["items"] == {"succeeded": 0, "failed": 0}
    with_crds("-n", NAMESPACE, "delete", "infjob", "again", "--wait=true")


def test_a_job_whose_pods_a_quota_refuses_says_so_and_goes_on_when_the_quota_is_gone(
    running: Path, with_crds: Kubectl
) -> None:
    namespace(with_crds, "quota")
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    raw = _by_user(job("blocked", tasks=[{"name": "decode", "cpu": {"function": "decode"}}]))
    raw["metadata"]["namespace"] = "quota"
    for each in (quota, claim, raw):
        with_crds("-n", "quota", "apply", "-f", "-", text=each)

    def get() -> dict[str, Any]:
        return dict(json.loads(with_crds("-n", "quota", "get", "infjob", "blocked", "-o", "json").stdout))

    def reason() -> str:
        return str(get()["status"].get("summary", {}).get("reason", ""))

    eventually(lambda: reason() == "PodsNotCreated", "the refusal in the status")
    [said] = [each for each in get()["status"]["conditions"] if each["type"] == "Reconciling"]
    assert "exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0" in said["message"]
    assert kstatus(get()) == "InProgress"
    with_crds("-n", "quota", "delete", "resourcequota", "none")
    eventually(lambda: reason() == "Planning", "the plan, once there is room")
    assert kstatus(get()) == "Current"
    with_crds("delete", "namespace", "quota", "--wait=false")
    assert "Traceback" not in (running / "operator.log").read_text()
