"""As many models as the CRD promises, on the real API server: the cost of its rules, and the size of such an object."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright_operator.crds.generate import KINDS, definition
from batchwright_operator.deployments.children import deployment_json
from batchwright_operator.deployments.observe import ObservedDeployment
from batchwright_operator.deployments.reconciler import decide
from batchwright_operator.settings import Settings
from batchwright_worker.api.documents import with_defaults
from batchwright_worker.api.messages import (
    BoundsState,
    ChangeState,
    FitState,
    HoldState,
    ModelState,
    SidecarState,
    TuningState,
)
from batchwright_worker.api.rules.model import RULES
from batchwright_worker.api.rules.model import _is_address as is_address
from e2e.cluster import ControlPlane
from tests.crds.api_cases import API, Document, document

MODELS = 500
HEADROOM = 2
"""No rule, and not all together, may take more than half of what the API server lets them: later ones must fit."""


def spec_of(crd: Document) -> Document:
    found: Document = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def deployment_crd() -> Document:
    return copy.deepcopy(next(definition(kind) for kind in KINDS if kind.resource.kind == "ModelDeployment"))


def many(count: int) -> Document:
    """A ModelDeployment of so many models that declare what they take and give."""
    whole = document("{kind: ModelDeployment, metadata: {name: many}, spec: {models: []}}")
    whole["spec"]["models"] = [
        {
            "name": f"recognizer-of-text-{number:04}",
            "inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [-1]}],
            "outputs": [{"name": "last_hidden_state", "datatype": "FP32", "shape": [-1, 384]}],
            "targets": {"latencyMilliseconds": 100},
            "artifacts": [
                {
                    "format": "onnx",
                    "uri": f"s3://a-bucket-of-models/production/text/recognizer-{number:04}/2026-11-30/model.onnx",
                    "sha256": "a" * 64,
                    "secretRef": {"name": "credentials"},
                }
            ],
        }
        for number in range(count)
    ]
    return whole


def test_the_schema_says_how_many() -> None:
    assert spec_of(deployment_crd())["properties"]["models"]["maxItems"] == MODELS


@pytest.mark.apiserver
def test_the_rules_stay_below_the_budget_with_room_to_spare(control_plane: ControlPlane) -> None:
    """The API server estimates what rules cost at most, from the limits of lists and texts, and refuses a CRD whose
    rules may cost too much. Here it is asked about one with more models."""
    crd = deployment_crd()
    spec_of(crd)["properties"]["models"]["maxItems"] = int(MODELS * HEADROOM)
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    name = crd["metadata"]["name"]
    control_plane.api.request(
        "PATCH",
        f"{path}/{name}?dryRun=All&fieldManager=test&force=true",
        crd,
        kind="application/apply-patch+yaml",
    )


@pytest.mark.apiserver
@pytest.mark.usefixtures("crds")
def test_an_object_with_all_of_them_and_its_status_are_taken(control_plane: ControlPlane) -> None:
    path = f"/apis/{API}/namespaces/default/modeldeployments/many"
    taken = control_plane.api.request(
        "PATCH", f"{path}?fieldManager=user&force=true", many(MODELS), kind="application/apply-patch+yaml"
    )
    assert len(taken["spec"]["models"]) == MODELS
    body = {"apiVersion": taken["apiVersion"], "kind": taken["kind"], "metadata": {"name": "many"}}
    stored = control_plane.api.request(
        "PATCH",
        f"{path}/status?fieldManager=operator&force=true",
        body | {"status": busiest_status(taken)},
        kind="application/apply-patch+yaml",
    )
    assert len(stored["status"]["models"]) == MODELS
    size = len(json.dumps(stored))
    print(f"{MODELS} models: {size} bytes with status and managedFields")
    assert size < 1_250_000  # etcd takes 1,572,864


def test_the_configuration_of_all_of_them_fits_a_config_map() -> None:
    whole = with_defaults(many(MODELS))
    whole["metadata"] |= {"namespace": "default"}
    assert len(deployment_json(whole, whole["spec"])) < 1_000_000


def busiest_status(raw: Document) -> dict[str, Any]:
    """As the operator would write it with 60 pods, every model measured and failed somewhere."""
    names = [model["name"] for model in raw["spec"]["models"]]
    tuning = TuningState(
        controller="Fitted",
        rule="FittedStep",
        usually=HoldState(reason="LatencyAboveTarget", rule="TrendGuard", bound_by="FairShare", cap=32),
        proposed_size=32,
        published_throughput=123456.0,
        possible_throughput=123456.0,
        fit=FitState(fixed_milliseconds=12.34, per_row_milliseconds=1.234, linear=True, knee=32, batches=1000),
        bounds=BoundsState(
            size=32, knee=32, reach=32, in_time=32, fair_share=32, memory=32, cap=32, bound_by="FairShare"
        ),
    )
    change = ChangeState(time=1.8e9, from_size=1, to_size=2, reason="LatencyBelowTarget", message="m" * 100)
    models = [
        ModelState(
            name=name,
            state="Failed",
            message="no usable ONNX model: " * 40,
            batch_size=32,
            throughput=1234.5,
            latency_counts=[1] * 65,
            changes=[change],
            tuning=tuning,
        )
        for name in names
    ]
    state = SidecarState(revision=1, time=1.8e9, ready=True, models=models)
    pods = tuple((pod(number), state) for number in range(60))
    observed = ObservedDeployment(
        raw=raw, settings=Settings(worker_image="example.org/worker:1"), token="t", pods=pods, claims=frozenset()
    )
    written = decide(observed, 1_800_000_000.0).status
    assert written is not None
    return dict(written.status)


def pod(number: int) -> Document:
    labels = {"batchwright.dev/deployment": "many", "app.kubernetes.io/component": "model"}
    return {
        "metadata": {
            "name": f"many-cpu-6d5f7c9b8-{number:05}",
            "uid": f"{number}",
            "namespace": "default",
            "labels": labels,
        },
        "spec": {"nodeName": f"node-{number}", "containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }


URI_RULE = next(rule for rule in RULES if rule.at == "uri" and rule.holds is is_address)


@given(st.text(alphabet="sgoci3phtvp:/a-.?", max_size=24))
@settings(max_examples=200)
def test_an_address_is_what_the_expression_takes(uri: str) -> None:
    """`split` with a limit of 4, as CEL has it."""
    parts = uri.split("/", 3)
    by_cel = len(parts) == 4 and parts[0] in ("https:", "s3:", "gs:", "oci:", "pvc:") and parts[1] == ""
    by_cel = by_cel and parts[2] != "" and parts[3] != ""
    assert URI_RULE.holds(uri) == by_cel
