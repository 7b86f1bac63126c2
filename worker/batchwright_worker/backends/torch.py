"""PyTorch models: torch.export programs, TorchScript, and safetensors with the script's `Model` (an nn.Module).

Nothing is ever unpickled: `torch.load` is restricted to weights_only while a file is read (torch.export falls back to
full pickles otherwise), and TorchScript and safetensors have formats of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from msgspec.structs import replace

from batchwright_worker.artifacts.companions import companions, weight_map
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.backends.base import Host, LoadError, OutOfDeviceMemoryError, accelerator_for
from batchwright_worker.backends.scripts import attribute, script
from batchwright_worker.backends.torch_device import CudaDevice, DeviceModel
from batchwright_worker.backends.torch_values import array_of, flat, tensor_of
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.ipc.messages import ModelSource

_DATATYPES: Final = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.float32: "FP32",
    torch.float64: "FP64",
    torch.bfloat16: "BF16",
}


class TorchModel:
    """A callable on the CPU that takes the inputs as positional tensors in the order of `inputs`."""

    def __init__(
        self,
        call: Callable[..., Any],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._call: Callable[..., Any] | None = call

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        """As LoadedModel.run."""
        try:
            return self._run(inputs)
        except RuntimeError as error:
            if any(words in str(error) for words in _NO_MEMORY):
                raise OutOfDeviceMemoryError(str(error)) from error
            raise

    def close(self) -> None:
        """Frees the weights."""
        self._call = None

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert self._call is not None, "run after close"
        with torch.inference_mode():
            tensors = [tensor_of(inputs[spec.name]) for spec in self.inputs]
            values = flat(self._call(*tensors), self.outputs)
            return {spec.name: array_of(value) for spec, value in zip(self.outputs, values, strict=True)}


_NO_MEMORY: Final = ("can't allocate memory", "not enough memory", "bad_alloc")
"""Messages of torch's CPU allocator, which raises a plain RuntimeError."""


def load(source: ModelSource, host: Host) -> TorchModel | DeviceModel:
    """By format. Raises LoadError for files that are missing, broken, or hold pickled objects."""
    if not Path(source.path).is_file():
        raise LoadError(f"there is no file at {source.path}; check the artifact's uri")
    torch.set_num_threads(host.threads)
    device = torch.device(accelerator_for(host).torch_device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LoadError("this image's torch sees no CUDA device; use an image with CUDA and a pod with a GPU")
    try:
        with held_to_weights():
            return _LOADERS[source.format](source, device)
    except torch.OutOfMemoryError as error:
        raise OutOfDeviceMemoryError(str(error)) from error
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"{source.path} is no usable {source.format} file: {type(error).__name__}: {error}") from error


def _load_program(source: ModelSource, device: torch.device) -> TorchModel | DeviceModel:
    program = torch.export.load(source.path)
    if device.type == "cuda":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return _on(device, program.module(), *whole_signature(program, source))


def _load_torchscript(source: ModelSource, device: torch.device) -> TorchModel | DeviceModel:
    _need_signature(source)
    return _on(device, torch.jit.load(source.path, map_location=device).eval(), source.inputs, source.outputs)


def _load_safetensors(source: ModelSource, device: torch.device) -> TorchModel | DeviceModel:
    return _on(device, module_of(source).to(device), source.inputs, source.outputs)


def _on(
    device: torch.device,
    call: Callable[..., Any],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> TorchModel | DeviceModel:
    if device.type == "cuda":
        return DeviceModel(call, inputs, outputs, CudaDevice())
    return TorchModel(call, inputs, outputs)


def module_of(source: ModelSource) -> torch.nn.Module:
    """The script's `Model` with the weights of a safetensors file, on the CPU. Raises LoadError."""
    _need_signature(source)
    module = attribute(script(source), "Model", source)()
    if not isinstance(module, torch.nn.Module):
        raise LoadError(f"script {source.script!r}: Model must be a torch.nn.Module for format safetensors")
    module.load_state_dict(_weights(Path(source.path)))
    return module.eval()


def _weights(path: Path) -> dict[str, torch.Tensor]:
    """Of a safetensors file, or of all that an index names. Raises LoadError."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    if path.suffix != ".json":
        found |= load_file(path)
        return found
    try:
        wanted, shards = weight_map(path), companions("safetensors", path)
    except ArtifactError as error:
        raise LoadError(str(error)) from error
    for shard in shards:
        if not (path.parent / shard).is_file():
            raise LoadError(f"{path} names {shard}, which is not beside it")
        found |= load_file(path.parent / shard)
    if missing := sorted(wanted.keys() - found.keys()):
        raise LoadError(f"{path} names the tensor {missing[0]!r}, which {wanted[missing[0]]} does not have")
    return found


_LOADERS: Final = {
    "torch-export": _load_program,
    "torchscript": _load_torchscript,
    "safetensors": _load_safetensors,
}


def _need_signature(source: ModelSource) -> None:
    if not source.inputs or not source.outputs:
        raise LoadError(f"model {source.name!r}: format {source.format} needs `inputs` and `outputs` in the manifest")


def whole_signature(program: Any, source: ModelSource) -> tuple[Sequence[TensorSpec], Sequence[TensorSpec]]:
    """A program's inputs and outputs with their whole shapes, under the declared names where there are any (a program's
    own are its nodes'). Raises LoadError."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    signature = program.graph_signature
    return (
        _named([_whole_spec(name, values[name]) for name in signature.user_inputs], source.inputs, "inputs"),
        _named([_whole_spec(name, values[name]) for name in signature.user_outputs], source.outputs, "outputs"),
    )


def program_signature(program: Any, source: ModelSource) -> tuple[Sequence[TensorSpec], Sequence[TensorSpec], int]:
    """The same per row, and its fixed batch size or 0. Raises LoadError for a tensor without dimensions."""
    inputs, outputs = whole_signature(program, source)
    if bare := [spec.name for spec in (*inputs, *outputs) if not spec.shape]:
        raise LoadError(f"{bare[0]!r} has no dimensions; the first must be the batch")
    return [_per_row(spec) for spec in inputs], [_per_row(spec) for spec in outputs], max(0, inputs[0].shape[0])


def _named(found: list[TensorSpec], declared: Sequence[TensorSpec], what: str) -> Sequence[TensorSpec]:
    if not declared:
        return found
    if len(declared) != len(found):
        raise LoadError(f"the manifest declares {len(declared)} {what}, the program has {len(found)}")
    return [replace(spec, name=one.name) for spec, one in zip(found, declared, strict=True)]


def _whole_spec(name: str, value: Any) -> TensorSpec:
    if not isinstance(value, torch.Tensor):
        raise LoadError(f"{name!r} is no tensor but a {type(value).__name__}; export the program with tensors alone")
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(name=name, datatype=_DATATYPES[value.dtype], shape=shape, batched=False)


def _per_row(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(name=spec.name, datatype=spec.datatype, shape=spec.shape[1:])


@contextlib.contextmanager
def held_to_weights() -> Iterator[None]:
    """torch.load is weights_only within the block (CVE-2025-32434, CVE-2026-24747). It is replaced, and not merely
    called so, because torch.export.load calls it itself and falls back to full pickles."""
    original = torch.load

    def weights_only(*args: Any, **options: Any) -> Any:
        return original(*args, **{**options, "weights_only": True})

    torch.load = weights_only
    try:
        yield
    finally:
        torch.load = original
