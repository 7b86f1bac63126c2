"""On a real API server: objects of others that have the names of children, and children that others change."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchwright_operator.kube.client import path_of
from batchwright_operator.kube.objects import DEPLOYMENT, INFERENCE_JOB, MODEL_DEPLOYMENT, PVC, SERVICE, Raw
from e2e.cluster import ApiError, ControlPlane
from e2e.cluster.control_plane import audit
from tests.deployments import foreign
from tests.deployments.deployment_objects import NAMESPACE, deployment, emulated, model
from tests.deployments.kstatus import kstatus
from tests.deployments.real_api import OPERATOR, Kubectl, eventually, namespace, operator, service_account
from tests.deployments.test_rendering import children
from tests.jobs.job_objects import job
from tests.jobs.test_job_rendering import children as job_children

pytestmark = pytest.mark.apiserver
RECONCILERS = (
    "batchwright_operator.deployments.reconciler:ModelDeploymentReconciler",
    "batchwright_operator.jobs.reconciler:InferenceJobReconciler",
)
Child = tuple[str, str]
"""(kind, name)"""


@pytest.fixture(scope="module")
def shop(with_crds: Kubectl, control_plane: ControlPlane) -> str:
    """The users' namespace, with the claim of the jobs' data."""
    namespace(with_crds, NAMESPACE)
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    control_plane.api.request("POST", path_of(PVC, NAMESPACE), claim)
    return NAMESPACE


@pytest.fixture(scope="module")
def running(
    shop: str, with_crds: Kubectl, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The operator with the rights of the manifests; its log's folder."""
    folder = tmp_path_factory.mktemp("operator")
    with operator(service_account(with_crds, control_plane), folder, *RECONCILERS, BATCHWRIGHT_RESYNC_SECONDS="3"):
        yield folder
    assert "Traceback" not in (folder / "operator.log").read_text()


def wanted(name: str, **spec: Any) -> Raw:
    """A ModelDeployment to send; it needs no claim."""
    return _sent(deployment(name, models=[model("echo", emulated())], **spec))


def wanted_job(name: str) -> Raw:
    """An InferenceJob to send; it needs no ModelDeployment."""
    return _sent(job(name, tasks=[{"name": "decode", "cpu": {"function": "decode"}}]))


def _sent(raw: Raw) -> Raw:
    metadata = {name: raw["metadata"][name] for name in ("name", "namespace")}
    return {**{name: value for name, value in raw.items() if name != "status"}, "metadata": metadata}


class Cluster:
    """What the tests ask of the API server."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane, self.api = plane, plane.api

    def path(self, raw: Raw, name: str = "") -> str:
        resource = MODEL_DEPLOYMENT if raw["kind"] == "ModelDeployment" else INFERENCE_JOB
        return path_of(resource, NAMESPACE, name)

    def make(self, raw: Raw) -> Raw:
        return self.api.request("POST", self.path(raw), raw)

    def get(self, raw: Raw) -> Raw:
        return self.api.get(self.path(raw, raw["metadata"]["name"]))

    def delete(self, raw: Raw) -> None:
        self.api.delete(self.path(raw, raw["metadata"]["name"]))

    def names(self, raw: Raw) -> list[Child]:
        """Kind and name of every child that a first visit makes; of the object as it is served, with its defaults.
        Without revisions, whose names are digests of all that the operator is."""
        served = self.api.request("POST", f"{self.path(raw)}?dryRun=All", raw)
        bodies = children(served) if raw["kind"] == "ModelDeployment" else job_children(served)
        return [(each["kind"], each["metadata"]["name"]) for each in bodies if each["kind"] != "ControllerRevision"]

    def reason(self, raw: Raw) -> str:
        return str((self.get(raw).get("status") or {}).get("summary", {}).get("reason", ""))

    def stalled(self, raw: Raw) -> Raw:
        conditions = (self.get(raw).get("status") or {}).get("conditions") or ()
        return next((each for each in conditions if each["type"] == "Stalled"), {})

    def is_taken(self, raw: Raw) -> bool:
        """Does its status say NameTaken?"""
        return self.stalled(raw).get("reason") == "NameTaken"

    def is_past(self, raw: Raw) -> bool:
        """Does its status say anything else?"""
        return self.reason(raw) not in {"", "NameTaken"}

    def has(self, child: Child, content: str) -> bool:
        return _content(foreign.read(self.plane, *at(child))) == content

    def is_ours(self, child: Child, raw: Raw) -> bool:
        found = foreign.read(self.plane, child[0], NAMESPACE, child[1])
        uid = self.get(raw)["metadata"]["uid"]
        return found is not None and [each["uid"] for each in found["metadata"].get("ownerReferences", ())] == [uid]


@pytest.fixture
def cluster(running: Path, control_plane: ControlPlane) -> Cluster:
    """The cluster, with the operator at work."""
    return Cluster(control_plane)


def test_objects_with_the_names_of_all_children_stay_as_they_are(cluster: Cluster) -> None:
    owners = [wanted("theirs"), wanted("theirs-too"), wanted_job("theirs-as-well")]
    names = [child for owner in owners for child in cluster.names(owner)]
    assert len(names) == len(set(names)) == 20
    before = {child: foreign.text(foreign.make(cluster.plane, child[0], NAMESPACE, child[1])) for child in names}
    for owner in owners:
        cluster.make(owner)
    for owner in owners:
        eventually(partial(cluster.is_taken, owner), "NameTaken in the status")
        assert kstatus(cluster.get(owner)) == "Failed"
        message = cluster.stalled(owner)["message"]
        assert "there is another" in message, message
        assert "delete or rename it" in message, message
    assert {child: foreign.text(foreign.read(cluster.plane, *at(child))) for child in names} == before
    for owner in owners:
        cluster.delete(owner)
    # Once the garbage collector has taken the children of this one, it has looked at those of the others.
    witness = wanted("witness")
    seen = cluster.names(witness)[0]
    cluster.make(witness)
    eventually(lambda: foreign.read(cluster.plane, *at(seen)) is not None, "a child of the witness")
    cluster.delete(witness)
    eventually(lambda: foreign.read(cluster.plane, *at(seen)) is None, "its end", within_s=150.0)
    assert {child: foreign.text(foreign.read(cluster.plane, *at(child))) for child in names} == before


def at(child: Child) -> tuple[str, str, str]:
    """The arguments of `foreign.read`."""
    return child[0], NAMESPACE, child[1]


def test_each_kind_of_child_waits_for_its_name_and_takes_it_when_it_is_free(cluster: Cluster) -> None:
    taken: dict[Child, Raw] = {}
    for raw, count in ((wanted("one"), 7), (wanted_job("one"), 4)):
        kind_of_owner = raw["kind"][0].lower()
        for index in range(count):
            owner = copy.deepcopy(raw)
            owner["metadata"]["name"] = f"{kind_of_owner}{index}"
            child = cluster.names(owner)[index]
            foreign.make(cluster.plane, child[0], NAMESPACE, child[1])
            taken[child] = owner
            cluster.make(owner)
    assert {kind for kind, _ in taken} == set(foreign.RESOURCES) - {"ControllerRevision"}
    for (kind, name), owner in taken.items():
        eventually(partial(cluster.is_taken, owner), f"NameTaken for {kind} {name}")
        # The admission policy lets the operator see nothing of a Secret that is not its own.
        whose = "is not this object's" if kind == "Secret" else "has no controller"
        assert f"another {kind} {name} in the namespace, which {whose};" in cluster.stalled(owner)["message"]
    for kind, name in taken:
        cluster.api.delete(path_of(foreign.RESOURCES[kind], NAMESPACE, name))
    for child, owner in taken.items():
        eventually(partial(cluster.is_ours, child, owner), f"{child} made once the name is free")
        eventually(partial(cluster.is_past, owner), "a status that says so")
        cluster.delete(owner)


def test_an_object_of_another_controller_is_named_with_it(cluster: Cluster) -> None:
    first = cluster.make(wanted("first"))
    owner = {name: first[name] for name in ("apiVersion", "kind")} | {
        "name": "first", "uid": first["metadata"]["uid"], "controller": True,
    }  # fmt: skip
    labels = {"batchwright.dev/deployment": "second"}
    foreign.make(cluster.plane, "Service", NAMESPACE, "second", ownerReferences=[owner], labels=labels)
    second = wanted("second")
    cluster.make(second)
    eventually(lambda: cluster.reason(second) == "NameTaken", "NameTaken in the status")
    assert "which belongs to ModelDeployment first" in cluster.stalled(second)["message"]
    for raw in (wanted("first"), second):
        cluster.delete(raw)


CHANGES: dict[str, Raw] = {
    "Secret": {"data": {"token": "bm90aGluZw=="}},
    "Service": {"spec": {"selector": {"app": "other"}}},
    "NetworkPolicy": {"spec": {"ingress": []}},
    "PodDisruptionBudget": {"spec": {"maxUnavailable": 3}},
    "Deployment": {"spec": {"replicas": 0}},
}


def test_what_is_edited_or_deleted_by_hand_comes_back(cluster: Cluster) -> None:
    mine, my_job = wanted("mine"), wanted_job("mine")
    later = {("Job", "mine-run"), ("Job", "mine-commit")}
    names = {each["kind"]: [child for child in cluster.names(each) if child not in later] for each in (mine, my_job)}
    cluster.make(mine)
    cluster.make(my_job)
    for owner in (mine, my_job):
        for child in names[owner["kind"]]:
            eventually(partial(cluster.is_ours, child, owner), f"{child}")
    every = [child for found in names.values() for child in found]
    before = {child: _content(foreign.read(cluster.plane, *at(child))) for child in every}
    for kind, name in every:
        path = path_of(foreign.RESOURCES[kind], NAMESPACE, name)
        if kind in CHANGES:
            cluster.api.patch(path, CHANGES[kind])
        if kind != "Job":
            cluster.api.patch(path, {"metadata": {"labels": None}})  # out of sight of a watch by labels
    for child in every:
        eventually(partial(cluster.has, child, before[child]), f"{child} as it was")
    for kind, name in every:
        cluster.api.delete(f"{path_of(foreign.RESOURCES[kind], NAMESPACE, name)}?propagationPolicy=Background")
    for owner in (mine, my_job):
        for child in names[owner["kind"]]:
            eventually(partial(cluster.is_ours, child, owner), f"{child} made again")
    for owner in (mine, my_job):
        cluster.delete(owner)


def _content(obj: Raw | None) -> str:
    """What we said of the object, without what the API server adds."""
    if obj is None:
        return ""
    metadata = {name: obj["metadata"].get(name) for name in ("labels", "ownerReferences")}
    if obj["kind"] in ("ConfigMap", "Secret"):
        return json.dumps([metadata, obj["data"]], sort_keys=True)
    if obj["kind"] == "Job":
        return json.dumps([metadata], sort_keys=True)
    spec = {name: value for name, value in obj["spec"].items() if name not in ("clusterIP", "clusterIPs")}
    return json.dumps([metadata, spec], sort_keys=True)


def test_whoever_undoes_every_repair_is_answered_now_and_then(cluster: Cluster) -> None:
    raw = wanted("contended")
    cluster.make(raw)
    child = ("Service", "contended")
    eventually(lambda: cluster.is_ours(child, raw), "its Service")
    since = datetime.now(UTC)
    path = path_of(SERVICE, NAMESPACE, "contended")

    def fight() -> bool:
        cluster.api.patch(f"{path}?fieldManager=rival", {"spec": {"selector": {"app": "rival"}}})
        return cluster.reason(raw) == "ChildContended"

    eventually(fight, "a status that tells of it")
    assert "somebody else (rival)" in cluster.stalled(raw)["message"]
    writes = audit.writes(cluster.plane.audit_log_path, user=OPERATOR, since=since)
    assert len([each for each in writes if (each.resource, each.name) == ("services", "contended")]) <= 6
    cluster.delete(raw)


def test_deployments_whose_children_would_meet_live_side_by_side(cluster: Cluster) -> None:
    pair = [wanted("pair"), wanted("pair-replicas"), wanted("x-job"), wanted_job("x"), wanted("x")]
    names = {index: cluster.names(raw) for index, raw in enumerate(pair)}
    for raw in pair:
        cluster.make(raw)
    for index, raw in enumerate(pair):
        for child in names[index]:
            if child not in {("Job", "x-run"), ("Job", "x-commit")}:
                eventually(partial(cluster.is_ours, child, raw), f"{child}")
    for raw in pair:
        cluster.delete(raw)


def test_of_two_deployments_that_want_one_name_the_second_says_so_and_nothing_is_written_twice(
    cluster: Cluster,
) -> None:
    first = _sent(deployment("a", models=[model("echo", emulated("b-example.com/c"))]))
    second = _sent(deployment("a-b", models=[model("echo", emulated("example.com/c"))]))
    child = ("Deployment", "a-b-example-com-c")
    assert child in cluster.names(first)
    assert child in cluster.names(second)
    cluster.make(first)
    eventually(partial(cluster.is_ours, child, first), "the Deployment of the first")
    cluster.make(second)
    eventually(partial(cluster.is_taken, second), "NameTaken in the status of the second")
    assert "which belongs to ModelDeployment a;" in cluster.stalled(second)["message"]

    def is_touched_in_vain() -> bool:
        """The last words of what went before may still be on their way, the first time."""
        since = datetime.now(UTC)
        cluster.api.patch(cluster.path(first, "a"), {"metadata": {"labels": {"touched": f"{time.monotonic_ns()}"}}})
        time.sleep(8)  # two resyncs, and several looks at the name
        writes = audit.writes(cluster.plane.audit_log_path, user=OPERATOR, since=since)
        here = [each for each in writes if each.namespace == NAMESPACE]
        return [each for each in here if each.resource not in {"leases", "events"}] == []

    eventually(is_touched_in_vain, "silence")
    cluster.delete(first)
    eventually(partial(cluster.is_ours, child, second), "the Deployment of the second", within_s=150.0)
    cluster.delete(second)


@pytest.mark.parametrize(("kind", "length"), [("ModelDeployment", 64), ("ModelDeployment", 253), ("InferenceJob", 253)])
def test_a_name_that_is_too_long_for_children_is_refused(kind: str, length: int, cluster: Cluster) -> None:
    raw = wanted("n" * length) if kind == "ModelDeployment" else wanted_job("n" * length)
    with pytest.raises(ApiError, match="write at most 63 lower-case letters"):
        cluster.make(raw)


def test_the_longest_names_work_side_by_side(cluster: Cluster) -> None:
    long = [wanted("n" * 63), wanted("n" * 62 + "m"), wanted_job("n" * 63)]
    names = {index: cluster.names(raw) for index, raw in enumerate(long)}
    for raw in long:
        cluster.make(raw)
    for index, raw in enumerate(long):
        for child in names[index][:7] if raw["kind"] == "ModelDeployment" else names[index][:4]:
            eventually(partial(cluster.is_ours, child, raw), f"{child}")
    for raw in long:
        cluster.delete(raw)


def test_a_namespace_that_is_deleted_in_the_middle_of_it_all_is_left_in_peace(
    cluster: Cluster, running: Path, with_crds: Kubectl
) -> None:
    namespace(with_crds, "doomed")
    bodies = [wanted(f"d{number}", replicas=3) for number in range(4)]
    for body in bodies:
        body["metadata"]["namespace"] = "doomed"
        cluster.api.request("POST", path_of(MODEL_DEPLOYMENT, "doomed"), body)
    eventually(lambda: cluster.api.get(path_of(DEPLOYMENT, "doomed"))["items"], "the first Deployment")
    for body in bodies:
        cluster.api.patch(path_of(MODEL_DEPLOYMENT, "doomed", body["metadata"]["name"]), {"spec": {"replicas": 5}})
    cluster.api.delete("/api/v1/namespaces/doomed")
    eventually(lambda: not cluster.api.exists("/api/v1/namespaces/doomed"), "its end", within_s=150.0)

    def quiet() -> bool:
        """Nothing was written there for a while: what the watch has not told yet may still be answered with a 404."""
        since = datetime.now(UTC)
        time.sleep(5)
        found = audit.writes(cluster.plane.audit_log_path, user=OPERATOR, since=since)
        return not [each for each in found if each.namespace == "doomed"]

    eventually(quiet, "the last write into a namespace that is gone")
    assert "Traceback" not in (running / "operator.log").read_text()
