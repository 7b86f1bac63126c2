"""Models of several files in a real runtime process: folders, external data, shards, scripts beside their data."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from onnx import TensorProto, helper, numpy_helper, save

from batchwright_worker.api.deployment import Artifact, Script
from batchwright_worker.inference.runtime import BatchFailed, DeclaredSource
from tests.runtime.rig import Rig, file_source, running, spec, write_script

WEIGHTS = np.random.default_rng(7).normal(size=(600, 3)).astype(np.float32)
X = np.random.default_rng(8).normal(size=(5, 600)).astype(np.float32)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """One process for all tests; scripts are in its folder."""
    async with running(tmp_path_factory.mktemp("rig")) as rig:
        yield rig


def external_onnx(path: Path) -> Path:
    """y = x @ WEIGHTS, with the weights in a file beside it."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 600])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    return path


@pytest.mark.parametrize("name", ["model.onnx", "net.onnx"])
async def test_a_folder_of_onnx_with_external_data(name: str, rig: Rig, tmp_path: Path) -> None:
    external_onnx(tmp_path / "folder with ä" / name)
    await rig.client.load("m", file_source(tmp_path / "folder with ä", "onnx", [], []))
    result = await rig.client.run("m", [{"x": X}], 5)
    np.testing.assert_allclose(result.outputs["y"], X @ WEIGHTS, rtol=1e-4, atol=1e-4)


async def test_a_folder_without_a_model_says_what_it_has(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    with pytest.raises(BatchFailed, match=r"has no model\.onnx and no other \.onnx file; there are: README\.md"):
        await rig.client.load("m", file_source(tmp_path, "onnx", [], []))


FOLDER_SCRIPT = """
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
import vocabulary

@dataclass
class Settings:
    factor: float

class Model:
    def __init__(self, path: str) -> None:
        self.settings = Settings(vocabulary.factor(Path(path) / "vocab.txt"))

    def infer(self, inputs):
        return {"y": inputs["x"] * self.settings.factor}
"""


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_python_model_whose_script_lies_in_its_folder(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(FOLDER_SCRIPT)
    (tmp_path / "vocabulary.py").write_text("def factor(path):\n    return float(path.read_text())\n")
    (tmp_path / "vocab.txt").write_text("2.5")
    artifact = Artifact(format="python", uri=f"{tmp_path.as_uri()}/", script=Script(file="model.py"))
    source = DeclaredSource(artifact=artifact, inputs=(spec("x", (600,)),), outputs=(spec("y", (600,)),))
    await rig.client.load("m", source)
    result = await rig.client.run("m", [{"x": X}], 5)
    np.testing.assert_allclose(result.outputs["y"], X * 2.5)
    assert entries(tmp_path) == ["model.py", "vocab.txt", "vocabulary.py"]


async def test_a_dataclass_in_a_script_of_a_config_map(rig: Rig, tmp_path: Path) -> None:
    """F17 of the bug cases: the model never loaded."""
    write_script(rig.folder, "dataclass.py", FOLDER_SCRIPT)
    write_script(rig.folder, "vocabulary.py", "def factor(path):\n    return 3.0\n")
    source = file_source(tmp_path, "python", [spec("x", (600,))], [spec("y", (600,))], "dataclass.py")
    await rig.client.load("m", source)
    np.testing.assert_allclose((await rig.client.run("m", [{"x": X}], 5)).outputs["y"], X * 3)


TWO_LAYERS = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(600, 3, bias=False)
        self.second = torch.nn.Linear(3, 3, bias=False)

    def forward(self, x):
        return self.second(self.first(x))
"""


@pytest.mark.slow
async def test_safetensors_in_shards(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    folder, second = tmp_path / "model", np.diag([1.0, 2.0, 3.0]).astype(np.float32)
    folder.mkdir()
    tensors = {"first.weight": torch.from_numpy(WEIGHTS.T.copy()), "second.weight": torch.from_numpy(second)}
    index = {name: f"model-{number}-of-2.safetensors" for number, name in enumerate(tensors, 1)}
    for name, file in index.items():
        save_file({name: tensors[name]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    write_script(tmp_path, "module.py", TWO_LAYERS)
    source = file_source(folder, "safetensors", [spec("x", (600,))], [spec("y", (3,))], "module.py")
    async with running(tmp_path, formats=("safetensors",)) as rig:
        await rig.client.load("m", source)
        result = await rig.client.run("m", [{"x": X}], 5)
        np.testing.assert_allclose(result.outputs["y"], X @ WEIGHTS @ second, rtol=1e-4, atol=1e-4)
        save_file({"other": tensors["second.weight"]}, folder / "model-2-of-2.safetensors")
        with pytest.raises(BatchFailed, match=r"'second\.weight', which model-2-of-2\.safetensors does not have"):
            await rig.client.load("m2", source)
        (folder / "model-2-of-2.safetensors").unlink()
        with pytest.raises(BatchFailed, match=r"names model-2-of-2\.safetensors, which is not beside it"):
            await rig.client.load("m3", source)
