"""Argo CD's health scripts, on their test data (laid out as in Argo CD's repository), in a Lua as bare as Argo's."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import kubectl_path
from tests.manifests.argocd import FOLDER, argo_health

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
        f"resource.customizations.health.batchwright.dev_{script.parent.name}": script.read_text()
        for script in FOLDER.glob("*/health.lua")
    }
