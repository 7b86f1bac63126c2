"""`serve` says what is wrong with a manifest, and which file or option mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from batchwright_worker.api.messages import ModelState, SidecarState
from batchwright_worker.local.deployment import local_deployment
from batchwright_worker.local.serve import News, command
from tests.protocol.serving import echo_model, emulated_model, linear_onnx, manifest

EMULATED = emulated_model("m", fixed_ms=1)


def onnx(uri: str, accelerator: str = "cpu") -> dict[str, Any]:
    return {"name": "m", "artifacts": [{"format": "onnx", "uri": uri, "accelerator": accelerator}]}


def documents(*models: dict[str, Any], **spec: Any) -> list[dict[str, Any]]:
    return manifest("d", list(models), **spec)


BAD = {
    "no deployment": ([{"kind": "ConfigMap", "metadata": {"name": "c"}}], ("0 ModelDeployments", "give a file")),
    "two deployments": (documents(EMULATED) + manifest("e", [EMULATED]), ("2 ModelDeployments", "--name", "d, e")),
    "no models": (documents(), ("spec.models",)),
    "an unknown format": (
        documents(onnx("pvc://c/m.onnx") | {"artifacts": [{"format": "tf", "uri": "pvc://c/m"}]}),
        ("format",),
    ),
    "a claim without a folder": (documents(onnx("pvc://models/m.onnx")), ("--volume models=FOLDER",)),
    "an address that must not be fetched": (documents(onnx("https://127.0.0.1/m.onnx")), ("127.0.0.1", "--volume")),
    "a file that is not there": (documents(onnx("file:///nowhere/m.onnx")), ("no file /nowhere/m.onnx",)),
    "no common kind": (
        documents(EMULATED | {"name": "e"}, onnx("file:///m.onnx", "example.com/npu")),
        ("no kind of accelerator", "add artifacts"),
    ),
    "a script that is missing": (
        documents(echo_model("e", "FP32", [1], Path("/etc/hostname")))[:1],
        ("echo.py", "ConfigMap 'scripts'", "another -f"),
    ),
    "somebody else's server": (
        documents(
            onnx("file:///etc/hostname"),
            runtimes=[{"accelerator": "cpu", "image": "mine", "protocol": "open-inference", "port": 9000}],
        ),
        ("open-inference", "start that server yourself", "--runtime-url"),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unusable_manifest_is_refused_with_words(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    path = tmp_path / "deployment.yaml"
    path.write_text(yaml.safe_dump_all(content))
    result = CliRunner().invoke(command, ["-f", str(path)])
    assert result.exit_code == 1
    for word in words:
        assert word in result.output


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    missing = CliRunner().invoke(command, ["-f", str(tmp_path / "none.yaml")])
    assert missing.exit_code != 0
    assert "none.yaml" in missing.output
    volume = CliRunner().invoke(command, ["-f", "x.yaml", "--volume", "models=/nowhere"])
    assert volume.exit_code == 2
    assert "CLAIM=FOLDER" in volume.output


def test_claims_become_folders_and_kinds_are_chosen(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "m.onnx")
    model = onnx("pvc://models/m.onnx")
    model["artifacts"].append({**EMULATED["artifacts"][0], "accelerator": "batchwright.dev/emulated"})
    found = local_deployment(documents(model), None, None, {"models": tmp_path})
    assert found.kind == "cpu"
    assert found.document["spec"]["models"][0]["artifacts"][0]["uri"] == (tmp_path / "m.onnx").as_uri()
    assert local_deployment(documents(model), "d", "batchwright.dev/emulated", {}).kind == "batchwright.dev/emulated"


def test_what_is_missing_is_told_once() -> None:
    def said(*models: tuple[str, str, str], message: str = "") -> list[str]:
        states = [ModelState(name=name, state=state, message=text, batch_size=1) for name, state, text in models]
        return news.of(SidecarState(revision=1, time=0.0, ready=False, message=message, models=states))

    news = News()
    assert said(message="no runtime is up") == ["no runtime is up"]
    assert said(("a", "Loading", ""), ("b", "Loading", ""), message="a: Loading") == ["loading the models"]
    assert said(("a", "Ready", ""), ("b", "Loading", ""), message="b: Loading") == []
    assert said(("a", "Failed", "no file"), ("b", "Loading", "")) == ["a: no file"]
    assert said(("a", "Failed", "no file"), ("b", "Failed", "broken")) == ["b: broken"]
    assert said(("a", "Failed", "no space"), ("b", "Failed", "broken")) == ["a: no space"]
