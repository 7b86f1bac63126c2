"""A model that an accelerator is to run is not run by the CPU instead, which onnxruntime does where a library or the
driver is missing."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, save

from batchwright_worker.backends.base import Host, LoadError
from batchwright_worker.backends.onnx import load
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.ipc.messages import ModelSource


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    path = tmp_path / "m.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return ModelSource(name="m", format="onnx", path=str(path), inputs=[], outputs=[])


def loaded(source: ModelSource, kind: str) -> None:
    load(source, Host(kind=kind, threads=1, emulated_memory=EmulatedMemory(0)))


def test_an_image_without_the_provider_says_which_package_has_it(source: ModelSource) -> None:
    with pytest.raises(LoadError, match="use an image with onnxruntime-gpu"):
        loaded(source, "nvidia.com/gpu")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_cannot_be_used_is_not_replaced_by_the_cpu(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
    with pytest.raises(LoadError, match="cannot use CUDAExecutionProvider here"):
        loaded(source, "nvidia.com/gpu")
    loaded(source, "cpu")
