"""What a cluster refuses (ResourceQuota, Pod Security) on a real API server: the object says so
in the words of who refused, is tried again without a hot loop, and goes on when the obstacle is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchwright_operator.kube.client import path_of
from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import DEPLOYMENT, INFERENCE_JOB, JOB, MODEL_DEPLOYMENT, POD, PVC, Raw, Resource
from e2e.cluster import ControlPlane
from e2e.cluster.control_plane import audit
from tests.deployments.real_api import OPERATOR, Kubectl, eventually, namespace, operator, service_account
from tests.deployments.test_ownership import RECONCILERS, wanted, wanted_job

pytestmark = pytest.mark.apiserver

QUIET_S = 5.0
ATTEMPTS = 12
"""Writes of the operator in QUIET_S beside an obstacle: back-off makes few of them, a hot loop hundreds."""
ROOT_USER = {"securityContext": {"runAsUser": 0, "runAsNonRoot": False}}


@pytest.fixture(scope="module")
def api(with_crds: Kubectl, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The administrator's client; the operator is at work."""
    folder: Path = tmp_path_factory.mktemp("operator")
    environ = {"BATCHWRIGHT_RESYNC_SECONDS": "5"}
    with operator(service_account(with_crds, control_plane), folder, *RECONCILERS, **environ):
        yield control_plane.api
    assert "Traceback" not in (folder / "operator.log").read_text()


def quota(place: str) -> list[tuple[str, Raw]]:
    body = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    return [(f"/api/v1/namespaces/{place}/resourcequotas", body)]


def nothing(place: str) -> list[tuple[str, Raw]]:
    return []


Obstacle = Callable[[str], list[tuple[str, Raw]]]
CASES: list[tuple[str, Obstacle, bool, str]] = [
    ("quota", quota, False, "exceeded quota: none"),
    ("pod-security", nothing, True, "violates PodSecurity"),
]


@pytest.mark.parametrize("kind", ["ModelDeployment", "InferenceJob"])
@pytest.mark.parametrize(("name", "obstacle", "as_root", "words"), CASES, ids=[case[0] for case in CASES])
def test_a_refusal_is_told_tried_again_slowly_and_over_when_it_is_over(  # noqa: PLR0917 - a case is four
    name: str, obstacle: Obstacle, as_root: bool, words: str, kind: str, api: Any, with_crds: Kubectl,
    control_plane: ControlPlane,
) -> None:  # fmt: skip
    place = f"{name}-{kind.lower()[:3]}"
    namespace(with_crds, place)
    for path, body in obstacle(place):
        api.request("POST", path, body)
    resource, child = (MODEL_DEPLOYMENT, DEPLOYMENT) if kind == "ModelDeployment" else (INFERENCE_JOB, JOB)
    path = path_of(resource, place, make(api, resource, place, as_root=as_root))
    eventually(lambda: words in text(api, path), f"{words!r} in the status", within_s=120)
    since = datetime.now(UTC)
    time.sleep(QUIET_S)
    found = [each for each in audit.writes(control_plane.audit_log_path, user=OPERATOR, since=since)
             if each.namespace == place and each.resource != "events"]  # fmt: skip
    assert len(found) <= ATTEMPTS, [(each.verb, each.resource, each.name) for each in found]
    if as_root:
        return  # another spec is what helps
    for posted, body in obstacle(place):
        api.delete(f"{posted}/{body['metadata']['name']}")
    eventually(lambda: api.get(path_of(POD, place))["items"], "pods", within_s=240)
    assert api.get(path_of(child, place))["items"]
    eventually(lambda: words not in text(api, path), "a status without the refusal", within_s=120)


def make(api: Any, resource: Resource, place: str, *, as_root: bool) -> str:
    """The object, and the claim that a job's data are on; its name."""
    raw = wanted("refused") if resource == MODEL_DEPLOYMENT else wanted_job("refused")
    raw["metadata"]["namespace"] = place
    if as_root:
        pod = raw["spec"] if resource == MODEL_DEPLOYMENT else raw["spec"].setdefault("runner", {})
        pod["pod"] = ROOT_USER
    storage = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    api.request("POST", path_of(PVC, place), {"metadata": {"name": "data"}, "spec": storage})
    api.request("POST", path_of(resource, place), raw)
    return "refused"


def text(api: Any, path: str) -> str:
    """What the conditions say that a user looks at first."""
    conditions = (api.get(path).get("status") or {}).get("conditions") or ()
    return " ".join(str(find(conditions, each).get("message", "")) for each in ("Ready", "Reconciling", "Stalled"))
