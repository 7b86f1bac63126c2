"""What the real API server takes and refuses, and that local mode agrees with it."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from batchwright_worker.api.documents import validate, with_defaults
from e2e.cluster import ApiError, ControlPlane
from tests.crds.api_cases import API, GOOD, MINIMAL_DEPLOYMENT, MINIMAL_JOB, BadManifest, Document, bad_manifests

apiserver = pytest.mark.apiserver
PLURALS = {"ModelDeployment": "modeldeployments", "InferenceJob": "inferencejobs"}
BAD = bad_manifests()
bad_cases = pytest.mark.parametrize("case", BAD, ids=[case.name for case in BAD])


def path_of(document: Document, *, dry_run: bool = True) -> str:
    query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
    return f"/apis/{API}/namespaces/default/{PLURALS[document['kind']]}{query}"


def refusal(plane: ControlPlane, document: Document) -> str:
    """What the API server says to a manifest; empty if it takes it."""
    try:
        plane.api.request("POST", path_of(document), document)
    except ApiError as error:
        return str(error)
    return ""


def test_the_table_is_large() -> None:
    assert len(BAD) >= 50
    assert len({case.name for case in BAD}) == len(BAD)


@apiserver
@bad_cases
@pytest.mark.usefixtures("crds")
def test_the_api_server_refuses_and_says_what_to_write(case: BadManifest, control_plane: ControlPlane) -> None:
    said = refusal(control_plane, case.document)
    assert case.field in said
    for word in case.words:
        assert word in said


@bad_cases
def test_local_mode_refuses_the_same(case: BadManifest) -> None:
    problems = validate(case.document)
    if case.local_words is None:
        assert not problems
        return
    said = " | ".join(str(problem) for problem in problems if problem.field.startswith(case.field))
    for word in case.local_words:
        assert word in said


@apiserver
@pytest.mark.parametrize("document", GOOD, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
@pytest.mark.usefixtures("crds")
def test_good_manifests_are_taken_with_the_defaults_of_local_mode(
    document: Document, control_plane: ControlPlane
) -> None:
    stored = control_plane.api.request("POST", path_of(document), document)
    assert with_defaults(stored)["spec"] == with_defaults(document)["spec"]
    assert {name for name in with_defaults(document)["spec"] if name not in stored["spec"]} == set()
    assert stored["status"] == {"observedGeneration": -1}
    assert validate(document) == []


@apiserver
@pytest.mark.usefixtures("crds")
def test_an_applied_object_survives_its_own_defaults(control_plane: ControlPlane) -> None:
    """Applying what the API server answered is taken, so that tools may send objects back."""
    stored = control_plane.api.request("POST", path_of(MINIMAL_DEPLOYMENT), MINIMAL_DEPLOYMENT)
    again = {key: stored[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": {"name": "again"}}
    assert control_plane.api.request("POST", path_of(again), again)["spec"] == stored["spec"]


@apiserver
@pytest.mark.usefixtures("crds")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"input": {"uri": "pvc://data/other", "format": "images"}}, "spec.input"),
        ({"output": {"uri": "pvc://data/elsewhere"}}, "spec.output"),
        ({"tasks": [{"name": "decode", "cpu": {"function": "decode"}}]}, "spec.tasks"),
        ({"backoffLimitPerShard": 4}, "spec.backoffLimitPerShard"),
        ({"runner": None}, "spec.runner"),
        ({"runner": {"image": "another:1"}}, "spec.runner"),
        ({"runner": {"env": [{"name": "A", "value": "c"}]}}, "spec.runner"),
        ({"runner": {"resources": {"requests": {"cpu": "2"}}}}, "spec.runner"),
        ({"runner": {"cpuWorkers": 2}}, "spec.runner"),
        ({"runner": {"pod": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "2Gi"}}]}}}, "spec.runner"),
    ],
    ids=["input", "output", "tasks", "back-off", "no runner", "image", "env", "resources", "workers", "volumes"],
)
def test_what_a_job_is_about_cannot_change(
    change: Document, field: str, stored_job: Document, control_plane: ControlPlane
) -> None:
    path = path_of(stored_job).replace("?", f"/{stored_job['metadata']['name']}?")
    with pytest.raises(ApiError, match=re.escape(field)) as refused:
        control_plane.api.patch(path, {"spec": change})
    assert "delete the job and apply it again" in str(refused.value)


@apiserver
@pytest.mark.usefixtures("crds")
def test_a_job_without_a_runner_gets_none_later_but_takes_everything_else(control_plane: ControlPlane) -> None:
    job = copy.deepcopy(MINIMAL_JOB)
    job["metadata"]["name"] = "plain"
    control_plane.api.request("POST", path_of(job, dry_run=False), job)
    path = path_of(job).replace("?", "/plain?")
    with pytest.raises(ApiError, match=re.escape("spec.runner")):
        control_plane.api.patch(path, {"spec": {"runner": {"cpuWorkers": 2}}})
    for change in ({"suspend": True}, {"parallelism": 9}, {"activeDeadlineSeconds": 60}, {"maxFailedItems": 0}):
        assert control_plane.api.patch(path, {"spec": change})["metadata"]["generation"] == 2
    assert control_plane.api.patch(path, {"metadata": {"labels": {"a": "b"}}})["metadata"]["generation"] == 1


@apiserver
@pytest.mark.usefixtures("crds")
def test_how_a_job_runs_can_change(stored_job: Document, control_plane: ControlPlane) -> None:
    path = path_of(stored_job).replace("?", f"/{stored_job['metadata']['name']}?")
    changed = control_plane.api.patch(path, {"spec": {"suspend": True, "parallelism": 3, "maxFailedItems": 1}})
    assert (changed["spec"]["suspend"], changed["spec"]["parallelism"]) == (True, 3)


@pytest.fixture(scope="module")
def stored_job(control_plane: ControlPlane, crds: None) -> Document:
    """An InferenceJob that is there."""
    job = copy.deepcopy(MINIMAL_JOB)
    job["metadata"]["name"] = "stored"
    job["spec"]["runner"] = {
        "image": "runner:1",
        "env": [{"name": "A", "value": "b"}],
        "resources": {"requests": {"cpu": "1"}},
        "pod": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]},
    }
    stored: dict[str, Any] = control_plane.api.request("POST", path_of(job, dry_run=False), job)
    return stored
