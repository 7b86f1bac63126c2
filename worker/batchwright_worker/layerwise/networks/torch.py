"""A torch network that runs unit by unit, on weights that lie in the pool of a CPU or the arena of a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchwright_worker.artifacts.companions import companions
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.backends.base import Host, LoadError, accelerator_for, check_outputs
from batchwright_worker.backends.torch import held_to_weights, module_of, program_signature
from batchwright_worker.backends.torch_values import array_of, tensor_of
from batchwright_worker.batching.calls import pieces
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.networks.prepared_folder import HeldFolder, prepared
from batchwright_worker.layerwise.networks.split_torch import (
    PROGRAM_FILE,
    SplitProgram,
    UnitGraph,
    onto,
    prepare,
    split,
)
from batchwright_worker.layerwise.networks.units import (
    Bytes,
    NotDivisible,
    State,
    Tables,
    file_digest,
)

__all__ = ["TorchUnits", "open_torch", "views"]


class TorchUnits:
    """See `Network`. On another device than the CPU its executor brings the activations and the weights there."""

    def __init__(
        self, program: Any, source: ModelSource, folder: Path, opened: HeldFolder, found: SplitProgram, device: Any
    ) -> None:
        self.index = index = opened.index
        self.folder = folder
        self._prepared = opened
        self.inputs: Sequence[TensorSpec]
        self.outputs: Sequence[TensorSpec]
        self.inputs, self.outputs, self._piece = program_signature(program, source)
        self.takes = [str(name) for name in program.graph_signature.user_inputs]
        self.gives = [str(name) for name in program.graph_signature.user_outputs]
        self.graphs = found.units
        self._gather = found.gather
        if device.type != "cpu":
            for graph in self.graphs:
                onto(graph, device)
        tables = [] if self._gather is None else list(self._gather.weights)
        here = [[piece.name for piece in unit.pieces] for unit in index.units], [table.name for table in index.tables]
        if ([list(graph.weights) for graph in self.graphs], tables) != here:
            raise LoadError(f"{folder} does not fit this version; remove it")
        self._needed = frozenset(name for graph in self.graphs for name in graph.takes)
        """Of the inputs: the names that units take."""
        self._tables = Tables(folder) if tables else None

    def begin(
        self, inputs: Mapping[str, Array], rows: int, brought: Callable[[Array], torch.Tensor] | None = None
    ) -> State:
        """As Network.begin; the inputs are copied (their memory is reused by the caller), by `brought` to wherever it
        brings them, and with them the rows that are gathered on the host. Else the first unit gathers them."""
        names = list(zip((spec.name for spec in self.inputs), self.takes, strict=True))
        given = [{inner: piece[outer] for outer, inner in names} for piece in pieces(inputs, rows, self._piece)]
        if brought is None:
            return [{name: tensor_of(np.array(array)) for name, array in values.items()} for values in given]
        state: State = []
        for values in given:
            on_host = {name: tensor_of(np.array(array)) for name, array in values.items()} if self._gather else {}
            rest = {name: array for name, array in values.items() if name in self._needed}
            gathered = {name: array_of(value) for name, value in self._gathered(on_host).items()}
            state.append({name: brought(array) for name, array in (rest | gathered).items()})
        return state

    def compute(self, position: int, weights: Bytes, state: State) -> None:
        """As Network.compute."""
        unit, graph = self.index.units[position], self.graphs[position]
        tensors = views(torch.from_numpy(weights), unit.pieces)
        with torch.inference_mode():
            for values in state:
                if position == 0:
                    values.update(self._gathered(values))
                run_unit(graph, tensors, values)

    def _gathered(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Rows of large tables, by what the inputs ask for; nothing where there are no such tables."""
        graph, tables = self._gather, self._tables
        if graph is None or tables is None:
            return {}
        with torch.inference_mode():
            given = graph.module(
                *(values[name] for name in graph.takes), *views(torch.from_numpy(tables.memory), self.index.tables)
            )
        tables.forget()
        return dict(zip(graph.gives, given, strict=True))

    def end(self, state: State, rows: int) -> Mapping[str, Array]:
        """As Network.end."""
        pieces = [
            {spec.name: array_of(values[inner]) for spec, inner in zip(self.outputs, self.gives, strict=True)}
            for values in state
        ]
        outputs = {name: np.concatenate([piece[name] for piece in pieces])[:rows] for name in pieces[0]}
        check_outputs(outputs, rows)
        return outputs

    def close(self) -> None:
        """As Network.close."""
        self.graphs, self._gather, self._tables = [], None, None
        self._prepared.release()


def views(memory: Any, pieces: Sequence[Any]) -> list[Any]:
    """The tensors of a unit in the bytes that hold it; nothing is copied."""
    tensors = []
    for piece in pieces:
        flat = memory[piece.offset : piece.offset + piece.size].view(getattr(torch, piece.dtype))
        shaped = flat.as_strided(piece.shape, piece.stride) if piece.stride else flat.view(piece.shape)
        tensors.append(shaped)
    return tensors


def run_unit(graph: UnitGraph, tensors: Sequence[Any], values: dict[str, Any]) -> None:
    """Run a unit on one set of activations. What it gives is never a view of its weights, whose place is reused."""
    given = graph.module(*(values[name] for name in graph.takes), *tensors)
    storages = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    for name, value in zip(graph.gives, given, strict=True):
        values[name] = _own(value, storages)
    for name in graph.drops:
        del values[name]


def _own(value: Any, storages: set[int]) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_own(each, storages) for each in value)
    if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in storages:
        return value.clone()
    return value


def open_torch(source: ModelSource, host: Host, folder_of: Any, limit_bytes: int, least_bytes: int = 0) -> TorchUnits:
    """Prepared on the first use, opened without its weights from then on. Raises LoadError, NotDivisible."""
    torch.set_num_threads(host.threads)
    path = Path(source.path)
    if not path.is_file():
        raise LoadError(f"there is no file at {path}; check the artifact's uri")
    script = file_digest(Path(source.script)) if source.script.endswith(".py") else source.script
    files = [path, *(path.parent / name for name in _shards(source))]
    shards = [file_digest(each) for each in files[1:]]
    digest = file_digest(path, source.format, script, *shards, torch.__version__, str(limit_bytes), str(least_bytes))
    folder = folder_of(digest)
    with warnings.catch_warnings(), held_to_weights():
        warnings.simplefilter("ignore", UserWarning)
        opened = prepared(
            folder,
            lambda place: prepare(_program(source), place, source.name, digest, limit_bytes, least_bytes),
            sum(each.stat().st_size for each in files),
        )
        try:
            program = torch.export.load(folder / PROGRAM_FILE)
            device = torch.device(accelerator_for(host).torch_device)
            return TorchUnits(program, source, folder, opened, split(program, limit_bytes, least_bytes), device)
        except BaseException:
            opened.release()
            raise


def _shards(source: ModelSource) -> list[str]:
    try:
        return companions(source.format, Path(source.path))
    except ArtifactError as error:
        raise LoadError(str(error)) from error


def _program(source: ModelSource) -> Any:
    if source.format == "torch-export":
        return torch.export.load(source.path)
    if source.format == "safetensors":
        return _traced(source)
    raise NotDivisible(f"format {source.format} has no graph to cut: export the model with torch.export")


def _traced(source: ModelSource) -> Any:
    """torch.export of the script's module, with a dynamic batch dimension and fixed others."""
    if any(size < 0 for spec in source.inputs for size in spec.shape):
        raise NotDivisible(
            f"model {source.name!r}: an input varies in more than the batch dimension; "
            "export it with torch.export.save and use format torch-export"
        )
    from batchwright_worker.oip.datatypes import numpy_of

    examples = tuple(tensor_of(np.zeros((2, *spec.shape), numpy_of(spec.datatype))) for spec in source.inputs)
    rows = torch.export.Dim("rows", min=1, max=65536)
    try:
        return torch.export.export(module_of(source), examples, dynamic_shapes=tuple({0: rows} for _ in examples))
    except Exception as error:
        raise NotDivisible(f"torch.export cannot trace model {source.name!r}: {error}") from error
