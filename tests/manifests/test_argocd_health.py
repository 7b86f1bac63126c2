"""Argo CD's health scripts, on their test data (laid out as in Argo CD's repository), in a Lua as bare as Argo's."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchwright_worker.api.names import ANNOTATION_RESTARTED_AT
from e2e.cluster import kubectl_path
from tests.manifests.argocd import FOLDER, argo_act, argo_actions, argo_health

CASES = [
    (script, test)
    for script in sorted(FOLDER.glob("*/health.lua"))
    for test in yaml.safe_load((script.parent / "health_test.yaml").read_text())["tests"]
]


@pytest.mark.parametrize(("script", "test"), CASES, ids=[f"{s.parent.name}-{t['inputPath']}" for s, t in CASES])
def test_health_is_as_expected(script: Path, test: dict[str, Any]) -> None:
    document = yaml.safe_load((script.parent / test["inputPath"]).read_text())
    assert argo_health(script.parent.name, document) == test["healthStatus"]


@pytest.mark.parametrize("kind", ["ModelDeployment", "InferenceJob"])
def test_an_object_without_a_status_is_on_its_way(kind: str) -> None:
    document = {"kind": kind, "metadata": {"name": "x", "generation": 1}}
    assert argo_health(kind, document)["status"] == "Progressing"


@pytest.mark.apiserver
def test_the_config_map_carries_both_scripts() -> None:
    command = [str(kubectl_path()), "kustomize", str(FOLDER)]
    config = yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (config["metadata"]["name"], config["metadata"]["namespace"]) == ("argocd-cm", "argocd")
    assert config["data"] == {
        f"resource.customizations.{what}.batchwright.dev_{script.parent.name}": script.read_text()
        for what, name in (("health", "health.lua"), ("actions", "actions.yaml"))
        for script in FOLDER.glob(f"*/{name}")
    }


def job(suspend: bool, *conditions: str) -> dict[str, Any]:
    true = [{"type": name, "status": "True"} for name in conditions]
    return {"metadata": {"name": "j"}, "spec": {"suspend": suspend}, "status": {"conditions": true}}


@pytest.mark.parametrize(
    ("document", "offered"),
    [
        (job(False), {"suspend"}),
        (job(True, "Suspended"), {"resume"}),
        (job(False, "Complete"), set()),
        (job(True, "Failed", "Stalled"), set()),
        ({"metadata": {"name": "new"}, "spec": {}}, {"suspend"}),
    ],
)
def test_a_job_is_suspended_or_resumed_until_its_end(document: dict[str, Any], offered: set[str]) -> None:
    assert {name for name, yes in argo_actions("InferenceJob", document).items() if yes} == offered


def test_the_actions_of_a_job_change_one_field() -> None:
    assert argo_act("InferenceJob", "suspend", job(False)) == job(True) | {"status": {"conditions": {}}}
    assert argo_act("InferenceJob", "resume", job(True))["spec"] == {"suspend": False}


@pytest.mark.parametrize("notes", [{}, {"annotations": {"mine": "kept"}}])
def test_a_deployment_restarts_by_the_annotation_that_the_plugin_writes(notes: dict[str, Any]) -> None:
    document = {"metadata": {"name": "m", **notes}, "spec": {"replicas": 2}}
    assert argo_actions("ModelDeployment", document) == {"restart": True}
    changed = argo_act("ModelDeployment", "restart", document)
    stamp = changed["metadata"]["annotations"].pop(ANNOTATION_RESTARTED_AT)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stamp)
    assert changed["metadata"]["annotations"] == notes.get("annotations", {})
    assert changed["spec"] == document["spec"]
