"""Every format in a real runtime process: ONNX, torch.export, TorchScript, safetensors with a script, python."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import pytest_asyncio
from onnx import TensorProto, helper, numpy_helper, save

from batchwright_worker.inference.runtime import BatchFailed, DeclaredSource
from tests.runtime.rig import Rig, file_source, running, spec, write_script

WEIGHTS = np.random.default_rng(7).normal(size=(6, 3)).astype(np.float32)
X = np.random.default_rng(8).normal(size=(5, 6)).astype(np.float32)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """One process for all tests; scripts are in its folder."""
    async with running(tmp_path_factory.mktemp("rig")) as rig:
        yield rig


def onnx_linear(path: Path, batch: int | str = "n") -> DeclaredSource:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return file_source(path, "onnx", [], [])


def onnx_identity(path: Path, element: int) -> DeclaredSource:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", element, ["n", "m"])],
        [helper.make_tensor_value_info("y", element, ["n", "m"])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return file_source(path, "onnx", [], [])


@pytest.mark.parametrize("batch", ["n", 1, 2])
async def test_onnx_with_a_dynamic_or_a_fixed_batch(rig: Rig, tmp_path: Path, batch: int | str) -> None:
    report = await rig.client.load("m", onnx_linear(tmp_path / "m.onnx", batch))
    assert (report.inputs, report.outputs) == ((spec("x", (6,)),), (spec("y", (3,)),))
    result = await rig.client.run("m", [{"x": X[:2]}, {"x": X[2:]}], 5)
    np.testing.assert_allclose(result.outputs["y"], X @ WEIGHTS, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("element", "value"),
    [
        (TensorProto.FLOAT16, np.array([[0.5, -65504.0]], np.float16)),
        (TensorProto.BFLOAT16, np.array([[0.5, 3e38]], ml_dtypes.bfloat16)),
        (TensorProto.STRING, np.array([[b"", "straße".encode()]], object)),
        (TensorProto.BOOL, np.array([[True, False]])),
        (TensorProto.UINT64, np.array([[1, 2**64 - 1]], np.uint64)),
    ],
    ids=["FP16", "BF16", "BYTES", "BOOL", "UINT64"],
)
async def test_onnx_carries_rare_datatypes(rig: Rig, tmp_path: Path, element: int, value: np.ndarray) -> None:
    await rig.client.load("m", onnx_identity(tmp_path / "m.onnx", element))
    result = await rig.client.run("m", [{"x": value}], 1)
    found = result.outputs["y"]
    if value.dtype == object:
        assert found.tolist() == value.tolist()
    else:
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)


async def test_unloading_gives_memory_back(rig: Rig, tmp_path: Path) -> None:
    """48 MB of weights: measured when loaded, gone when unloaded."""
    weights = np.ones((3000, 4000), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4000])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "large.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    await rig.client.load("small", onnx_linear(tmp_path / "m.onnx"))
    before = (await rig.client.memory()).used_bytes
    report = await rig.client.load("large", file_source(path, "onnx", [], []))
    # Meanwhile the kernel may take back pages of libraries that nobody reads now.
    assert report.memory_bytes >= 0.8 * weights.nbytes
    await rig.client.unload("large")
    after = (await rig.client.memory()).used_bytes
    assert after - before < weights.nbytes / 4


BAD_SOURCES = {
    "a file that is missing": (lambda folder: file_source(folder / "none.onnx", "onnx", [], []), "no file at"),
    "a file that is broken": (lambda folder: broken(folder / "b.onnx", "onnx"), "no usable ONNX model"),
    "a python model without inputs": (lambda folder: broken(folder / "b.bin", "python"), "must declare"),
    "a script that is missing": (
        lambda _: file_source(None, "python", [spec("x", (1,))], [spec("y", (1,))], "none.py"),
        "cannot be imported",
    ),
}


def broken(path: Path, format_: str) -> DeclaredSource:
    path.write_bytes(b"not a model")
    return file_source(path, format_, [], [])


@pytest.mark.parametrize("name", BAD_SOURCES)
async def test_what_cannot_be_loaded_says_why(rig: Rig, tmp_path: Path, name: str) -> None:
    make, words = BAD_SOURCES[name]
    with pytest.raises(BatchFailed, match=words):
        await rig.client.load("m", make(tmp_path))
    await rig.client.load("good", onnx_linear(tmp_path / "m.onnx"))


PYTHON = """
import numpy as np

class Model:
    def __init__(self, path):
        self.factor = float(open(path).read())

    def infer(self, inputs):
        if (inputs["x"] == 99).any():
            raise ValueError("ninety-nine")
        return {"y": inputs["x"] * self.factor, "z": inputs["x"].sum(axis=1, keepdims=True)}
"""


async def test_python_models_run_and_their_errors_come_through(rig: Rig, tmp_path: Path) -> None:
    write_script(rig.folder, "model.py", PYTHON)
    (tmp_path / "factor").write_text("2.5")
    outputs = [spec("y", (6,)), spec("z", (1,))]
    await rig.client.load("m", file_source(tmp_path / "factor", "python", [spec("x", (6,))], outputs, "model.py"))
    result = await rig.client.run("m", [{"x": X}], 5)
    np.testing.assert_allclose(result.outputs["y"], X * 2.5)
    np.testing.assert_allclose(result.outputs["z"], X.sum(1, keepdims=True))
    with pytest.raises(BatchFailed, match="ValueError: ninety-nine"):
        await rig.client.run("m", [{"x": np.full((1, 6), 99, np.float32)}], 1)


async def test_an_output_that_is_not_as_declared_is_refused_at_load(rig: Rig, tmp_path: Path) -> None:
    write_script(
        rig.folder,
        "bad.py",
        "class Model:\n    def __init__(self, path): pass\n"
        "    def infer(self, inputs): return {'y': inputs['x'].sum()}\n",
    )
    with pytest.raises(BatchFailed, match=r"output 'y' is not as declared: wanted \[-1, 1\], given FP32 \[\]"):
        await rig.client.load("m", file_source(None, "python", [spec("x", (6,))], [spec("y", (1,))], "bad.py"))


TORCH_SCRIPT = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 3, bias=False)

    def forward(self, x):
        return self.linear(x)
"""


@pytest.mark.slow
async def test_torch_models_of_every_format(tmp_path: Path) -> None:
    """One process for all, because importing torch takes seconds."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    linear = torch.nn.Linear(6, 3, bias=False)
    linear.weight.data = torch.from_numpy(WEIGHTS.T.copy())
    example = (torch.zeros(2, 6),)
    dynamic = torch.export.export(linear, example, dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(dynamic, tmp_path / "dynamic.pt2")
    torch.export.save(torch.export.export(linear, example), tmp_path / "fixed.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(linear, example), tmp_path / "traced.pt")
    save_file({"linear.weight": linear.weight.data.contiguous()}, tmp_path / "w.safetensors")
    write_script(tmp_path, "module.py", TORCH_SCRIPT)
    pickled(torch, tmp_path / "evil.pt2", tmp_path / "owned")
    declared = ([spec("x", (6,))], [spec("y", (3,))])
    sources = {
        "dynamic": file_source(tmp_path / "dynamic.pt2", "torch-export", [], []),
        "fixed": file_source(tmp_path / "fixed.pt2", "torch-export", *declared),
        "traced": file_source(tmp_path / "traced.pt", "torchscript", *declared),
        "tensors": file_source(tmp_path / "w.safetensors", "safetensors", *declared, "module.py"),
    }
    async with running(tmp_path, formats=("torch-export",)) as rig:
        for name, source in sources.items():
            report = await rig.client.load(name, source)
            assert report.inputs[0].shape == (6,)
            result = await rig.client.run(name, [{report.inputs[0].name: X}], 5)
            found = result.outputs[report.outputs[0].name]
            np.testing.assert_allclose(found, X @ WEIGHTS, rtol=1e-5, atol=1e-6)
        with pytest.raises(BatchFailed, match="no usable torch-export file"):
            await rig.client.load("evil", file_source(tmp_path / "evil.pt2", "torch-export", [], []))
        with pytest.raises(BatchFailed, match="no usable torch-export file"):
            await rig.client.load("broken", broken(tmp_path / "b.pt2", "torch-export"))
    assert not (tmp_path / "owned").exists()


def pickled(torch: object, path: Path, trace: Path) -> None:
    """A program whose sample inputs are a pickle that would touch `trace` when it is unpickled."""
    import os
    import pickle
    import zipfile

    class Evil:
        def __reduce__(self) -> object:
            return os.system, (f"touch {trace}",)

    with zipfile.ZipFile(path.with_name("dynamic.pt2")) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.namelist():
            content = source.read(entry)
            if "/data/sample_inputs/" in entry:
                content = pickle.dumps(Evil())
            target.writestr(entry, content)
