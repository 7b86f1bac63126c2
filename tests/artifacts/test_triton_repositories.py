"""Which model a repository's folder is, and what counts where the manifest and config.pbtxt say different things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchwright_worker.api.model import Artifact, Model
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.artifacts.triton.artifact import configured, format_in_repository

CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 4 }
output { name: "y" data_type: TYPE_FP32 dims: 4 label_filename: "labels.txt" }
dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 3000 }
"""


def put(folder: Path, config: str | None = CONFIG, versions: tuple[str, ...] = ("1",)) -> Path:
    for version in versions:
        (folder / version).mkdir(parents=True)
        (folder / version / "model.onnx").touch()
    (folder / "labels.txt").write_text("cat\ndog\n")
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    return folder


def model(uri: str, **fields: Any) -> Model:
    document = {"name": "m", "artifacts": [{"format": "triton-repository", "uri": uri}], **fields}
    return msgspec.convert(document, Model)


def served(path: Path, **fields: Any) -> Model:
    declared = model(path.as_uri(), **fields)
    return configured(declared, declared.artifacts[0]).under(declared, "cpu")


def test_a_model_is_found_in_a_repository_and_as_a_folder_of_its_own(tmp_path: Path) -> None:
    wanted = (tmp_path / "repository" / "m" / "1" / "model.onnx").as_uri()
    put(tmp_path / "repository" / "m")
    for folder in (tmp_path / "repository", tmp_path / "repository" / "m"):
        found = served(folder)
        assert (found.name, found.version, found.artifacts) == ("m", "1", (Artifact(format="onnx", uri=wanted),))


def test_a_repository_without_the_model_names_those_it_has(tmp_path: Path) -> None:
    put(tmp_path / "a", None)
    put(tmp_path / "b")
    (tmp_path / "notes").mkdir()
    with pytest.raises(ArtifactError, match=r"has no model 'm'; it has a, b: a model is a folder of its name"):
        served(tmp_path)
    with pytest.raises(ArtifactError, match="there is no folder"):
        served(tmp_path / "nothing")


def test_a_model_named_as_a_number_is_no_version(tmp_path: Path) -> None:
    put(tmp_path / "7", None)
    declared = msgspec.structs.replace(model(tmp_path.as_uri()), name="7")
    [artifact] = configured(declared, declared.artifacts[0]).under(declared, "cpu").artifacts
    assert artifact.uri == (tmp_path / "7" / "1" / "model.onnx").as_uri()


def test_in_a_repository_the_name_is_that_of_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "m", 'name: "other"' + CONFIG)
    with pytest.raises(ArtifactError, match="says name 'other'; it has to be that of the folder"):
        served(tmp_path)
    assert served(tmp_path / "m").name == "m"


def test_the_manifest_goes_before_the_configuration(tmp_path: Path) -> None:
    put(tmp_path)
    found = served(tmp_path)
    assert (found.batching.max_size, found.batching.initial_size, found.batching.mode) == (8, 4, "Rows")
    assert found.batching.max_queue_delay_milliseconds == 3
    assert found.outputs[0].labels == ("cat", "dog")
    given = served(tmp_path, batching={"maxSize": 6, "controller": "Fitted"}, targets={"latencyMilliseconds": 50})
    assert (given.batching.max_size, given.batching.initial_size, given.batching.controller) == (6, 4, "Fitted")
    assert given.targets.latency_milliseconds == 50


def test_the_manifest_may_choose_the_version(tmp_path: Path) -> None:
    put(tmp_path, CONFIG + "version_policy { all { } }", ("1", "3", "12"))
    assert served(tmp_path, version="3").version == "3"
    with pytest.raises(ArtifactError, match=r"it wants the versions 1, 3, 12.*models\[\]\.version"):
        served(tmp_path)
    with pytest.raises(ArtifactError, match="version 4 is not there; there are 1, 3, 12"):
        served(tmp_path, version="4")


def test_what_breaks_a_rule_with_the_configuration_is_refused(tmp_path: Path) -> None:
    put(tmp_path)
    with pytest.raises(ArtifactError, match=r"with config\.pbtxt: batching\.maxSize: smaller than minSize"):
        served(tmp_path, batching={"minSize": 16})
    with pytest.raises(ArtifactError, match=r"batching\.initialSize: it is outside minSize to maxSize"):
        served(tmp_path, batching={"maxSize": 2})


def test_all_that_is_refused_is_said_at_once(tmp_path: Path) -> None:
    put(tmp_path, CONFIG + "model_transaction_policy { decoupled: true }\ninstance_group { kind: KIND_GPU }")
    with pytest.raises(ArtifactError, match=r"decoupled: .*; instance_group\.kind KIND_GPU: it is served on"):
        served(tmp_path)


def test_the_format_is_told_without_serving(tmp_path: Path) -> None:
    declared = model(put(tmp_path).as_uri())
    assert format_in_repository(declared, declared.artifacts[0]) == "onnx"
    missing = model((tmp_path / "nothing").as_uri())
    assert format_in_repository(missing, missing.artifacts[0]) is None


SECRET = "what nobody who asks for classes is to see"


@pytest.mark.parametrize("name", ["../secret.txt", "../../secret.txt", "/etc/hostname", "link.txt", "labels"])
def test_labels_are_files_of_the_repository_alone(tmp_path: Path, name: str) -> None:
    """They are told to callers: with another's file as labels, a repository would publish it."""
    folder = put(tmp_path / "repository" / "m", CONFIG.replace("labels.txt", name))
    (tmp_path / "secret.txt").write_text(SECRET)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "labels").mkdir()
    with pytest.raises(ArtifactError, match=r"label_filename"):
        served(tmp_path / "repository")


def test_labels_may_be_shared_by_models_of_a_repository(tmp_path: Path) -> None:
    folder = put(tmp_path / "m", CONFIG.replace("labels.txt", "shared.txt"))
    put(tmp_path / "n")
    (folder / "shared.txt").symlink_to(tmp_path / "n" / "labels.txt")
    assert served(tmp_path).outputs[0].labels == ("cat", "dog")


def test_a_label_ends_with_its_line_and_nowhere_else(tmp_path: Path) -> None:
    folder = put(tmp_path / "m")
    (folder / "labels.txt").write_text("a\u2028b\nc\x0cd\r\n\nlast")
    assert served(tmp_path).outputs[0].labels == ("a\u2028b", "c\x0cd", "", "last")


INPUT = 'input { name: "x" data_type: TYPE_FP32 dims: 4 }'


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("dims: 4 }\noutput", "}\noutput", "input 'x': dims is missing"),
        ("max_batch_size: 8", "max_batch_size: -1", "max_batch_size -1: write 0 for a model without a batch dimension"),
        (
            "max_batch_size: 8",
            'max_batch_size: 8 platform: "pytorch_libtorch"',
            "platform 'pytorch_libtorch': it is not",
        ),
        ("labels.txt", "none.txt", "output 'y': label_filename 'none.txt': No such file"),
        (INPUT, INPUT + INPUT, "inputs: two tensors have one name"),
        ("dims: 4 }\noutput", "dims: 0 }\noutput", r"inputs\[0\]\.shape: a dimension is 0"),
        ("TYPE_FP32 dims: 4 }\noutput", "TYPE_FP8 dims: 4 }\noutput", "has no value named TYPE_FP8"),
        ("delay_microseconds: 3000", "delay_microseconds: 90000000", "maxQueueDelayMilliseconds"),
    ],
)
def test_odd_configurations_are_refused_by_name(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in CONFIG
    put(tmp_path, CONFIG.replace(old, new))
    with pytest.raises(ArtifactError, match=sentence):
        served(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\n" + CONFIG,
        CONFIG.replace("\n", "\r\n"),
        CONFIG.replace('"', "'"),
        CONFIG.replace(INPUT, 'input: [ < name: "x", data_type: TYPE_FP32; dims: [ 4 ] > ]'),
        CONFIG + 'platform: "onnxruntime_onnx" version_policy: { specific: { versions: [1] } }',
    ],
)
def test_all_ways_to_write_one_thing_are_read(tmp_path: Path, text: str) -> None:
    put(tmp_path, text, ("1", "01", "0", "-1", "readme"))
    found = served(tmp_path)
    assert (found.version, found.batching.max_size, found.inputs[0].shape) == ("1", 8, (4,))


def test_what_changes_speed_alone_is_noted(tmp_path: Path) -> None:
    more = 'parameters { key: "threads" value { string_value: "4" } } optimization { priority: PRIORITY_MAX }'
    put(tmp_path, CONFIG.replace("max_batch_size: 8", "max_batch_size: 9000") + more)
    declared = model(tmp_path.as_uri())
    said = configured(declared, declared.artifacts[0]).notes
    assert [each.partition(":")[0] for each in said] == ["parameters", "max_batch_size", "optimization"]
