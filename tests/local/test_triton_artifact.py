"""Models of a Triton model repository as artifacts of format triton-repository, served beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton_http

from tests.local.triton_models import made, model_repository
from tests.protocol.serving import Served, linear_onnx, manifest, serving

ENSEMBLE = """
platform: "ensemble"
ensemble_scheduling { step { model_name: "linear" model_version: -1 } }
"""


def artifact_of(folder: Path) -> list[dict[str, Any]]:
    return [{"format": "triton-repository", "uri": f"{folder.as_uri()}/"}]


def infer(served: Served, model: str, **arrays: Any) -> Any:
    tensors = []
    for name, value in arrays.items():
        array = np.asarray(value, np.float32)
        tensors.append(triton_http.InferInput(name, list(array.shape), "FP32"))
        tensors[-1].set_data_from_numpy(array)
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.http}") as client:
        return client.infer(model, tensors)


def test_models_of_a_repository_are_served_as_its_configurations_say(tmp_path: Path) -> None:
    """One takes its limits from the manifest, one is a folder of its own, and one is refused without harm to others."""
    repository = model_repository(tmp_path / "My models")
    made(repository, "chain", ENSEMBLE, "1")
    own = made(tmp_path, "own", 'name: "elsewhere"\nmax_batch_size: 3', "2")
    linear_onnx(own / "2" / "model.onnx")
    models = [
        {"name": "add_sub", "artifacts": artifact_of(repository)},
        {"name": "linear", "artifacts": artifact_of(repository), "batching": {"maxSize": 4}},
        {"name": "picture", "artifacts": artifact_of(repository)},
        {"name": "chain", "artifacts": artifact_of(repository)},
        {"name": "renamed", "artifacts": artifact_of(own)},
        {"name": "ours", "artifacts": [{"format": "onnx", "uri": (own / "2" / "model.onnx").as_uri()}]},
    ]
    with serving(tmp_path, manifest("mixed", models, readiness="Any")) as served:
        added = infer(served, "add_sub", INPUT0=[[1, 2, 3, 4]], INPUT1=[[1, 1, 1, 1]])
        assert added.as_numpy("OUTPUT0").tolist() == [[4, 6, 8, 10]]
        assert infer(served, "picture", p=np.ones((3, 2, 2))).as_numpy("q").tolist() == [[[2.0] * 2] * 2] * 3
        assert infer(served, "linear", x=np.ones((2, 16))).get_response()["model_version"] == "3"
        with triton_http.InferenceServerClient(f"127.0.0.1:{served.http}") as client:
            configs = {
                each["name"]: client.get_model_config(each["name"]) for each in models if each["name"] != "chain"
            }
        states = {each["name"]: each for each in served.state()["models"]}
    assert {name: config["max_batch_size"] for name, config in configs.items()} == {
        "add_sub": 8,
        "linear": 4,
        "picture": 0,
        "renamed": 3,
        "ours": 32,
    }
    assert configs["linear"]["backend"] == "onnxruntime"
    assert configs["add_sub"]["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 100
    assert states["chain"]["state"] == "Failed"
    assert "ensemble_scheduling: ensembles are not served" in states["chain"]["message"]
    assert {states[name]["state"] for name in configs} == {"Ready"}
