"""A Triton model repository served as it is, asked by tritonclient; and what of one is refused, by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import yaml
from click.testing import CliRunner
from tritonclient.utils import InferenceServerException

from batchwright_worker.api.documents import ManifestError, validate
from batchwright_worker.artifacts.triton.repository import read_repository
from batchwright_worker.local.triton_repository import command
from tests.local.triton_models import made, model_repository
from tests.protocol.serving import Served, listening, wait_ready


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_repository(tmp_path_factory.mktemp("repo") / "My models")


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    with listening("--model-repository", str(repository)) as found:
        wait_ready(found)
        yield found


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[Any]:
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.http}") as client:
        yield client


@pytest.fixture(scope="module")
def grpc(served: Served) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
        yield client


def given(library: Any, **arrays: Any) -> list[Any]:
    tensors = []
    for name, value in arrays.items():
        array = np.asarray(value, np.float32)
        tensors.append(library.InferInput(name, list(array.shape), "FP32"))
        tensors[-1].set_data_from_numpy(array)
    return tensors


def test_the_index_has_the_repositorys_models_and_versions(http: Any, grpc: Any) -> None:
    listed = {each["name"]: (each["version"], each["state"]) for each in http.get_model_repository_index()}
    assert listed == {
        "add_sub": ("1", "READY"),
        "linear": ("3", "READY"),
        "picture": ("1", "READY"),
        "plain": ("1", "READY"),
    }
    assert {each.name: each.version for each in grpc.get_model_repository_index().models} == {
        name: version for name, (version, _) in listed.items()
    }


def test_a_python_model_of_tritons_answers(http: Any, grpc: Any) -> None:
    a, b = np.arange(8).reshape(2, 4), np.ones((2, 4))
    for client, library in ((http, triton_http), (grpc, triton_grpc)):
        answer = client.infer("add_sub", given(library, INPUT0=a, INPUT1=b))
        assert answer.as_numpy("OUTPUT0").tolist() == ((a + b) * 2).tolist()
        assert answer.as_numpy("OUTPUT1").tolist() == (a - b).tolist()
        with pytest.raises(InferenceServerException, match="thirteen is not liked"):
            client.infer("add_sub", given(library, INPUT0=[[13] * 4], INPUT1=[[0] * 4]))


def test_the_newest_version_is_served_under_its_number(http: Any, grpc: Any) -> None:
    x = np.ones((3, 16))
    for client, library in ((http, triton_http), (grpc, triton_grpc)):
        answer = client.infer("linear", given(library, x=x), model_version="3")
        assert answer.as_numpy("y").shape == (3, 4)
        with pytest.raises(InferenceServerException, match="its only version is '3'"):
            client.infer("linear", given(library, x=x), model_version="1")
    assert http.infer("linear", given(triton_http, x=x)).get_response()["model_version"] == "3"
    assert grpc.infer("linear", given(triton_grpc, x=x)).get_response().model_version == "3"
    assert http.get_model_metadata("linear")["versions"] == ["3"]
    assert http.get_inference_statistics("linear")["model_stats"][0]["version"] == "3"


def test_configurations_become_ours(http: Any) -> None:
    config = http.get_model_config("add_sub")
    assert (config["max_batch_size"], config["backend"]) == (8, "python")
    batching = config["dynamic_batching"]
    assert batching["max_queue_delay_microseconds"] == 2000
    assert batching["default_queue_policy"]["max_queue_size"] == 100
    picture = http.get_model_config("picture")
    assert (picture["max_batch_size"], picture["input"][0]["format"]) == (0, "FORMAT_NCHW")
    assert (
        http.infer("picture", given(triton_http, p=np.ones((3, 2, 2)))).as_numpy("q").tolist() == [[[2.0] * 2] * 2] * 3
    )


def test_labels_are_those_of_the_repository(http: Any) -> None:
    wanted = [triton_http.InferRequestedOutput("y", class_count=1)]
    [[best]] = http.infer("linear", given(triton_http, x=np.ones((1, 16))), outputs=wanted).as_numpy("y").tolist()
    assert best.decode().rpartition(":")[2] in ("cat", "dog", "owl", "fox")


def test_models_are_unloaded_and_loaded(http: Any) -> None:
    http.unload_model("plain")
    assert not http.is_model_ready("plain")
    http.load_model("plain")
    assert http.is_model_ready("plain")
    assert http.infer("plain", given(triton_http, x=np.ones((1, 16)))).as_numpy("y").shape == (1, 4)


def test_metrics_name_the_version(served: Served) -> None:
    text = served.get("/metrics")[2].decode()
    assert 'nv_inference_request_success{model="linear",version="3"}' in text
    assert 'batchwright_batch_size{model="linear",version="3"}' in text


def test_the_manifest_for_a_cluster_is_printed(repository: Path) -> None:
    options = [str(repository), "--uri", "pvc://models/triton", "--name", "shop"]
    printed = CliRunner().invoke(command, options).output
    document = yaml.safe_load(printed)
    assert validate(document) == []
    assert document["metadata"]["name"] == "shop"
    by_name = {each["name"]: each for each in document["spec"]["models"]}
    assert by_name["linear"]["artifacts"] == [
        {"accelerator": "cpu", "format": "onnx", "uri": "pvc://models/triton/linear/3/model.onnx"}
    ]
    assert by_name["add_sub"]["artifacts"][0] == {
        "accelerator": "cpu",
        "format": "triton-python",
        "uri": "pvc://models/triton/add_sub/",
        "script": {"file": "1/model.py"},
    }
    assert "# add_sub: instance_group.count: a model is loaded once per device" in printed


# --- what is refused

ONE_INPUT = 'input { name: "x" data_type: TYPE_FP32 dims: 4 %s }\noutput { name: "y" data_type: TYPE_FP32 dims: 4 }\n'
ONNX = 'backend: "onnxruntime"\nmax_batch_size: 4\n' + ONE_INPUT


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            'platform: "ensemble"\nensemble_scheduling { step { model_name: "a" } }',
            "ensemble_scheduling: ensembles",
        ),
        (ONNX % "" + "sequence_batching { }", "sequence_batching: sequences are not served"),
        (
            ONNX % "" + "model_transaction_policy { decoupled: true }",
            "model_transaction_policy.decoupled: one",
        ),
        ('backend: "tensorrt"', "backend 'tensorrt' is not served; there are onnxruntime, pytorch, python"),
        ('platform: "tensorflow_savedmodel"', "backend 'tensorflow_savedmodel' is not served"),
        (ONNX % "reshape { shape: [ 1, 4 ] }", "input 'x': reshape is not done"),
        (ONNX % "allow_ragged_batch: true", "input 'x': allow_ragged_batch: ragged"),
        (ONNX % "optional: true", "input 'x': optional: every input is needed"),
        (ONNX % "" + "dynamic_batching { preserve_ordering: true }", "dynamic_batching.preserve_ordering"),
        (
            ONNX % "" + "dynamic_batching { priority_levels: 3 default_priority_level: 1 }",
            "default_priority_level 1: requests without a priority go last here; write 3",
        ),
        (
            ONNX % "" + "dynamic_batching { default_queue_policy { default_timeout_microseconds: 5 } }",
            "default_timeout_microseconds: requests say their own timeout",
        ),
        (ONNX % "" + "instance_group { kind: KIND_GPU }", "instance_group.kind KIND_GPU: it is served on the CPU"),
        (ONNX % "" + "version_policy { all { } }", "version_policy: it wants the versions 1, 2"),
        (ONNX % "" + "version_policy { specific { versions: 7 } }", "version 7 is not there; there are 1, 2"),
        (ONNX % "" + 'default_model_filename: "other.onnx"', "there is no other.onnx in the folder of version 2"),
        (ONNX % "" + "batch_input { kind: BATCH_ITEM_SHAPE }", "batch_input: inputs made of a batch"),
        (ONNX % "" + 'model_operations { op_library_filename: "a.so" }', "model_operations: libraries of custom"),
        (ONNX % "" + 'name: "other"', "config.pbtxt says name 'other'; it has to be that of the folder"),
        (ONNX % "" + "no_such_field: 1", "no field named"),
        ('backend: "pytorch"', "input and output: the file does not say what they are"),
        (
            'backend: "python"\n'
            + ONE_INPUT % ""
            + 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "a" } }',
            "parameters.EXECUTION_ENV_PATH: environments are images here",
        ),
        (
            ONNX % "" + 'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 input_data_file: "f" } } }',
            "model_warmup.inputs.x: files are not read",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(tmp_path: Path, config: str, sentence: str) -> None:
    made(tmp_path, "good", ONNX % "", "1")
    (tmp_path / "good" / "1" / "model.onnx").touch()
    bad = made(tmp_path, "bad", config, "1", "2")
    for version in ("1", "2"):
        (bad / version / "model.onnx").touch()
    with pytest.raises(ManifestError) as refused:
        read_repository(tmp_path, str)
    [line] = [line for line in str(refused.value).splitlines() if line.startswith("bad: ")]
    assert sentence in line
    assert "good: " not in str(refused.value)
    assert len(read_repository(tmp_path, str, chosen=["good"]).document["spec"]["models"]) == 1


def test_a_folder_that_is_no_repository_says_so(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no model"):
        read_repository(tmp_path, str)
    with pytest.raises(ManifestError, match="give the folder of a model repository"):
        read_repository(tmp_path / "none", str)
    made(tmp_path, "m", None)
    (tmp_path / "m").mkdir(exist_ok=True)
    with pytest.raises(ManifestError, match=r"m: there is no folder of a version \(1, 2, \.\.\)"):
        read_repository(tmp_path, str)
    with pytest.raises(ManifestError, match="has no model n; it has none"):
        read_repository(tmp_path, str, chosen=["n"])


def test_torchscript_goes_by_places(tmp_path: Path) -> None:
    tensors = "".join(f'input {{ name: "INPUT__{n}" data_type: TYPE_INT64 dims: [ {n} ] }}\n' for n in (2, 0, 1))
    output = 'output { name: "y" data_type: TYPE_BOOL dims: 1 }'
    config = f'platform: "pytorch_libtorch"\nmax_batch_size: 4\n{tensors}{output}'
    (made(tmp_path, "m", config, "1") / "1" / "model.pt").touch()
    [model] = read_repository(tmp_path, lambda path: f"pvc://c/{path}").document["spec"]["models"]
    assert [each["name"] for each in model["inputs"]] == ["INPUT__0", "INPUT__1", "INPUT__2"]
    assert model["artifacts"][0]["uri"] == f"pvc://c/{PurePosixPath('m') / '1' / 'model.pt'}"
    assert model["batching"] == {"maxSize": 4}
