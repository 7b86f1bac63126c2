"""How the kinds look to kubectl: explain, scale, columns, short names, categories."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batchwright_operator.crds.generate import KINDS, definition
from e2e.cluster import ApiError, ControlPlane
from tests.crds.api_cases import MINIMAL_DEPLOYMENT, Document

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("crds")]

Kubectl = Callable[..., Any]
DEPLOYMENTS = "/apis/batchwright.dev/v1alpha1/namespaces/default/modeldeployments"
COLUMNS = {
    "modeldeployments": "NAME READY REASON REPLICAS BATCH P95(MS) ROWS/S NODES AGE",
    "inferencejobs": "NAME REASON PROGRESS ITEMS/S FAILED ETA AGE",
    "acceleratorprofiles": "NAME KINDS PRODUCT IMAGES/S BENCHMARKED FRESH AGE",
}


def fields(schema: Document, depth: int = 1) -> Iterator[tuple[int, str]]:
    """(depth, name) of every field, as `explain --recursive` indents them."""
    inner = schema.get("items", schema)
    for name in sorted(inner.get("properties", {})):
        yield depth, name
        yield from fields(inner["properties"][name], depth + 1)


@pytest.mark.usefixtures("explained")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.resource.kind)
def test_explain_answers_for_every_field(kind: Any, kubectl: Kubectl) -> None:
    said = kubectl("explain", kind.resource.plural, "--recursive").stdout
    shown = re.findall(r"^( +)(\S+)\t<", said.split("FIELDS:")[1], flags=re.MULTILINE)
    schema = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    expected = list(fields(schema))
    found = [(len(indent) // 2, name) for indent, name in shown]
    assert set(expected) <= set(found)


@pytest.mark.usefixtures("explained")
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("mdep.spec.models.batching.maxSize", "Largest batch size"),
        ("mdep.spec.models.artifacts.uri", "pvc://CLAIM/PATH"),
        ("mdep.status.placements.terms.pending", "no sample shows yet"),
        ("infjob.spec.tasks.dependsOn", "earlier in the list"),
        ("accel.status.processors.loadTable.maxServices", "Services that run at once"),
    ],
)
def test_explain_says_what_a_field_means(path: str, words: str, kubectl: Kubectl) -> None:
    assert words in " ".join(kubectl("explain", path).stdout.split())


@pytest.fixture(scope="module")
def deployment(control_plane: ControlPlane, crds: None) -> Iterator[str]:
    """The name of a stored ModelDeployment."""
    body = copy.deepcopy(MINIMAL_DEPLOYMENT)
    body["metadata"]["name"] = "surface"
    control_plane.api.request("POST", DEPLOYMENTS, body)
    yield "surface"
    control_plane.api.delete(f"{DEPLOYMENTS}/surface")


def test_the_scale_subresource_writes_replicas(deployment: str, kubectl: Kubectl, control_plane: ControlPlane) -> None:
    kubectl("scale", f"mdep/{deployment}", "--replicas=5")
    assert control_plane.api.get(f"{DEPLOYMENTS}/{deployment}")["spec"]["replicas"] == 5


def test_the_scale_subresource_reads_status(deployment: str, control_plane: ControlPlane) -> None:
    """What a HorizontalPodAutoscaler needs."""
    path = f"{DEPLOYMENTS}/{deployment}"
    control_plane.api.patch(f"{path}/status", {"status": {"replicas": 3, "selector": "batchwright.dev/deployment=x"}})
    scale = control_plane.api.get(f"{path}/scale")
    assert scale["status"] == {"replicas": 3, "selector": "batchwright.dev/deployment=x"}


def test_status_is_written_only_through_its_subresource(deployment: str, control_plane: ControlPlane) -> None:
    path = f"{DEPLOYMENTS}/{deployment}"
    before = control_plane.api.get(path)
    after = control_plane.api.patch(path, {"status": {"readyReplicas": 9}})
    assert after["status"] == before["status"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


@pytest.mark.parametrize(("plural", "header"), COLUMNS.items())
def test_the_columns_are_those_of_the_contract(plural: str, header: str, control_plane: ControlPlane) -> None:
    names = control_plane.api.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.batchwright.dev")
    columns = names["spec"]["versions"][0]["additionalPrinterColumns"]
    assert " ".join(["NAME", *(column["name"].upper() for column in columns)]) == header


@pytest.mark.parametrize(
    ("status", "taken"),
    [
        ({"observedGeneration": 0}, True),
        ({"observedGeneration": -1}, False),
        ({"lastTransitionTime": "today"}, False),
        ({"reason": "Not a word"}, False),
        ({"reason": ""}, False),
        ({"type": "Ready now"}, False),
        ({"type": "example.org/Ready"}, True),
        ({"status": "Maybe"}, False),
        ({"message": None}, False),
    ],
    ids=str,
)
def test_conditions_are_those_of_kubernetes(
    status: Document, taken: bool, deployment: str, control_plane: ControlPlane
) -> None:
    """What `metav1.Condition` validates."""
    good = {"type": "Ready", "status": "True", "reason": "Ready", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
    condition = {name: value for name, value in {**good, **status}.items() if value is not None}
    path = f"{DEPLOYMENTS}/{deployment}/status?dryRun=All"
    with contextlib.nullcontext() if taken else pytest.raises(ApiError, match="conditions"):
        control_plane.api.patch(path, {"status": {"conditions": [condition]}})


@pytest.mark.parametrize(
    ("kind", "selector"),
    [("mdep", "status.summary.reason=x"), ("infjob", "spec.suspend=true"), ("accel", "status.summary.kinds=cpu")],
)
def test_objects_are_selected_by_what_matters_of_them(kind: str, selector: str, kubectl: Kubectl) -> None:
    assert kubectl("get", kind, "--field-selector", selector, "-o", "name").stdout == ""


def test_a_selector_finds_what_has_the_value(deployment: str, kubectl: Kubectl, control_plane: ControlPlane) -> None:
    control_plane.api.patch(f"{DEPLOYMENTS}/{deployment}/status", {"status": {"summary": {"reason": "Placing"}}})
    found = kubectl("get", "mdep", "--field-selector=status.summary.reason=Placing", "-o", "name").stdout.split()
    assert found == [f"modeldeployment.batchwright.dev/{deployment}"]


def test_the_category_lists_all_kinds(deployment: str, kubectl: Kubectl) -> None:
    assert "modeldeployment.batchwright.dev/surface" in kubectl("get", "batchwright", "-A").stdout


def test_every_status_field_can_be_written(deployment: str, control_plane: ControlPlane) -> None:
    """The schema takes a status in the form that the operator writes."""
    status = {
        "observedGeneration": 1,
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Ready", "message": "", "observedGeneration": 1,
             "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ],
        "replicas": 1, "readyReplicas": 1, "address": {"url": "http://surface.default:8000"},
        "models": [{"name": "m", "batchSize": 4, "trend": "Rising", "trendZ": "2.10", "throughput": 3,
                    "latencyMilliseconds": {"p50": 1, "p95": 2, "p99": 3},
                    "lastChangeTime": "2026-01-01T00:00:00.123Z", "lastChangeReason": "x"}],
        "replicaStatuses": [{"pod": "p", "node": "n", "processor": "cpu", "ready": True, "models": [{"name": "m"}]}],
        "placements": [{"pod": "p", "node": "n", "load": "0.41", "terms": {"utilization": "0.3"},
                        "runnersUp": [{"node": "o", "processor": "cpu", "load": "0.6"}],
                        "decidedTime": "2026-01-01T00:00:00Z", "reason": "least loaded"}],
        "summary": {"reason": "Ready", "batch": "4", "p95": 2, "throughput": 3, "nodes": "n"},
        "lastUpdatedTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    path = f"{DEPLOYMENTS}/{deployment}/status?fieldValidation=Strict"
    written = control_plane.api.patch(path, {"status": status})["status"]
    assert {key: written[key] for key in status} == status
