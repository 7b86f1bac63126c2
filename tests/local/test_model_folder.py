"""What lies in a folder of models, as manifests, and what of it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from batchwright_worker.api.documents import ManifestError, validate
from batchwright_worker.local.model_folder import found_models
from batchwright_worker.local.serve import command
from tests.local.triton_models import made


def artifacts(folder: Path, name: str = "Shop 1") -> dict[str, Any]:
    """Of the one ModelDeployment: model -> its artifact; held against the schema."""
    [document] = found_models(folder, name).documents
    assert not [each for each in validate(document) if "file://" not in str(each)]
    return {each["name"]: each["artifacts"][0] for each in document["spec"]["models"]}


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "format_"),
    [
        (("model.onnx", "config.json", "tokenizer.json"), "onnx"),
        (("ranker.onnx", "weights.bin"), "onnx"),
        (("onnx/model.onnx", "README.md"), "onnx"),
        (("net.pt2",), "torch-export"),
    ],
)
def test_a_model_file_has_the_name_that_is_given(tmp_path: Path, names: tuple[str, ...], format_: str) -> None:
    found = artifacts(put(tmp_path, *names), "ranker")
    assert found == {"ranker": {"accelerator": "cpu", "format": format_, "uri": f"{tmp_path.as_uri()}/"}}


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = put(tmp_path, "a.onnx", "b.onnx") / "b.onnx"
    assert artifacts(path, "b") == {"b": {"accelerator": "cpu", "format": "onnx", "uri": path.as_uri()}}


def test_the_only_model_of_a_repository_may_be_the_folder_itself(tmp_path: Path) -> None:
    put(tmp_path, "1/model.onnx", "3/model.onnx")
    found = artifacts(tmp_path, "ranker")
    assert found["ranker"]["format"] == "triton-repository"


def test_models_of_a_repository_keep_their_names_and_nobody_may_unload_them(tmp_path: Path) -> None:
    put(made(tmp_path, "a", None), "1/model.onnx")
    put(made(tmp_path, "b", "max_batch_size: 2", "1"), "2/model.onnx")
    put(tmp_path, "notes/readme.txt")
    found = artifacts(tmp_path)
    assert {name: each["format"] for name, each in found.items()} == {"a": "onnx", "b": "onnx"}
    [document] = found_models(tmp_path, "x").documents
    assert "repositoryControl" not in document["spec"]


def test_a_manifest_goes_first_and_yaml_of_others_is_none(tmp_path: Path) -> None:
    put(tmp_path, "model.onnx")
    (tmp_path / "config.yaml").write_text("kind: SomethingElse\n")
    assert list(artifacts(tmp_path, "m")) == ["m"]
    model = {"name": "own", "artifacts": [{"format": "onnx", "uri": (tmp_path / "model.onnx").as_uri()}]}
    document = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "d"}}
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump({**document, "spec": {"models": [model]}}))
    assert list(artifacts(tmp_path, "m")) == ["own"]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((), "there are: no files"),
        (
            ("model.safetensors", "config.json"),
            r"there are: config\.json, model\.safetensors.*a ModelDeployment beside",
        ),
        (("a.onnx", "b.onnx"), r"several \.onnx files \(a\.onnx, b\.onnx\): name the model model\.onnx"),
    ],
)
def test_what_cannot_be_served_says_what_was_looked_for(tmp_path: Path, names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ManifestError, match=sentence):
        found_models(put(tmp_path, *names), "m")


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    cases = {
        ("--models", str(tmp_path), "-f", "x.yaml"): "write one of -f FILE",
        ("--models", str(tmp_path / "nothing")): "there is no folder",
        ("-f", "x.yaml", "--model-name", "m"): "--model-name goes with --models",
    }
    for options, sentence in cases.items():
        done = CliRunner().invoke(command, options)
        assert done.exit_code == 1
        assert sentence in done.output
