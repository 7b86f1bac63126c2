"""ONNX models, cut into units: the graph as onnxruntime optimizes it for this machine, in sub-models of their own.

Weights become inputs of the sub-models, so that a session is made once and its weights come and go beneath it. What is
small stays inside (shapes, scales, biases of a few bytes: kernels want to see some of them as constants). Sessions of
units optimize nothing: fusion, folding and the layout of convolutions were done on the whole graph.

Results are bitwise those of a session of the whole model that packs no weights beforehand (packing is a copy of the
weights, which a stream has no room for); one that does pack sums the rows of a MatMul in another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import onnx
import onnxruntime as ort
from onnx import TensorProto, external_data_helper, numpy_helper

from batchwright_worker.artifacts.companions import companions
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.backends.base import LoadError
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.layerwise.networks.cuts import Operation, Span, cut
from batchwright_worker.layerwise.networks.onnx_bodies import is_large, lift_weights, read_by
from batchwright_worker.layerwise.networks.units import Bytes, NotDivisible, Piece, UnitIndex, UnitWriter, write_index

__all__ = ["SMALL_BYTES", "UnitModel", "UnitModels", "external_files", "prepare", "read_models", "session_options"]

SMALL_BYTES: Final = 4096
"""Weights below this stay in the sub-model."""
MODELS_FILE: Final = "models.bin"
_OPTIMIZED: Final = "optimized.onnx"
_OPTIMIZED_WEIGHTS: Final = "optimized.weights"


class UnitModel(msgspec.Struct, frozen=True, kw_only=True):
    """`model` is an ONNX model of its own: inputs `takes` and the unit's weights, outputs `gives`."""

    model: bytes
    takes: list[str]
    gives: list[str]
    drops: list[str]


class UnitModels(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a prepared folder next to its weights. `inputs` and `outputs` are those of the whole model."""

    units: list[UnitModel]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    piece: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """The optimized model: `large` weights lie in `folder`, `small` ones stay in the graph."""

    model: Any
    large: Mapping[str, Any]
    small: Mapping[str, Any]
    operations: list[Operation]
    outputs: tuple[str, ...]
    folder: Path


def session_options(threads: int) -> Any:
    """As the ONNX backend's, without any optimization."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def prepare(path: Path, folder: Path, model: str, digest: str, limit_bytes: int, least_bytes: int = 0) -> UnitIndex:
    """Fill the folder. Raises NotDivisible. Takes the memory of one whole model for a moment."""
    folder.mkdir(parents=True, exist_ok=True)
    _optimize(path, folder)
    graph = _read(folder)
    spans = cut(graph.operations, limit_bytes, least_bytes=least_bytes)
    last = _last_reads(graph)
    crossing = {name for span in spans for name in _edges(graph, span, last)[1]} - set(graph.outputs)
    probe = _probe(graph, crossing)
    types = {value.name: value.type for value in (*probe.get_inputs(), *probe.get_outputs())}
    if "tensor(string)" in types.values():
        raise NotDivisible("the model takes or gives text, which onnxruntime cannot hand from unit to unit")
    units = [_unit_model(graph, span, last, types) for span in spans]
    with UnitWriter(folder) as writer:
        for position, span in enumerate(spans):
            names = _weights_of(graph, span)
            pieces = (_piece(graph, name) for name in names)
            writer.add(_unit_name(graph, position, span), pieces, span.stop - span.start)
        index = writer.index(model, digest)
    models = UnitModels(units=units, **_signature(probe, graph, model))
    (folder / MODELS_FILE).write_bytes(msgspec.msgpack.encode(models))
    for name in (_OPTIMIZED, _OPTIMIZED_WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    return write_index(folder, index)


def read_models(folder: Path) -> UnitModels:
    """Of a prepared folder."""
    return msgspec.msgpack.decode((folder / MODELS_FILE).read_bytes(), type=UnitModels)


def external_files(path: Path) -> list[Path]:
    """The files next to a model that contain its weights. Raises LoadError if one is not there."""
    try:
        found = [path.parent / name for name in companions("onnx", path)]
    except ArtifactError as error:
        raise LoadError(str(error)) from error
    for file in found:
        if not file.is_file():
            raise LoadError(f"{path} keeps weights in {file.name}, which is not next to it")
    return found


def _optimize(path: Path, folder: Path) -> None:
    """The graph as a session of the whole model would run it, with its weights in a file next to it."""
    options = session_options(1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(folder / _OPTIMIZED)
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _OPTIMIZED_WEIGHTS)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", str(SMALL_BYTES)
    )
    try:
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise LoadError(f"{path} is no usable ONNX model: {error}") from error


def _read(folder: Path) -> _Graph:
    model = onnx.load(str(folder / _OPTIMIZED), load_external_data=False)
    if model.graph.sparse_initializer:
        raise NotDivisible("the model has sparse weights, which cannot be streamed")
    lift_weights(model.graph)
    large: dict[str, Any] = {}
    small: dict[str, Any] = {}
    for tensor in model.graph.initializer:
        (large if is_large(tensor) else small)[tensor.name] = tensor
    # Older exporters list weights among the inputs, as defaults of them.
    given = [value for value in model.graph.input if value.name not in large and value.name not in small]
    model.graph.ClearField("input")
    model.graph.input.extend(given)
    graph = _Graph(
        model=model,
        large=large,
        small=small,
        operations=[_operation(node, large, small) for node in model.graph.node],
        outputs=tuple(value.name for value in model.graph.output),
        folder=folder,
    )
    if not graph.operations:
        raise NotDivisible("the model computes nothing from its inputs")
    written = {name for operation in graph.operations for name in operation.writes}
    constant = [name for name in graph.outputs if name not in written and name not in {value.name for value in given}]
    if constant:
        raise NotDivisible(f"output {constant[0]!r} of the model does not depend on its inputs")
    return graph


def _operation(node: Any, large: Mapping[str, Any], small: Mapping[str, Any]) -> Operation:
    read = [name for name in read_by(node) if name]
    return Operation(
        reads=frozenset(name for name in read if name not in large and name not in small),
        writes=tuple(name for name in node.output if name),
        weights={name: _size(large[name]) for name in read if name in large},
        matrices=frozenset(name for name in read if name in large and len(large[name].dims) > 1),
    )


def _size(tensor: Any) -> int:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return int(entries["length"])


def _last_reads(graph: _Graph) -> dict[str, int]:
    last = {name: index for index, operation in enumerate(graph.operations) for name in operation.reads}
    return {**last, **dict.fromkeys(graph.outputs, len(graph.operations))}


def _edges(graph: _Graph, span: Span, last: Mapping[str, int]) -> tuple[list[str], list[str], list[str]]:
    """What a unit takes, gives, and is the last to take."""
    inside = graph.operations[span.start : span.stop]
    written = [name for operation in inside for name in operation.writes]
    takes = sorted({name for operation in inside for name in operation.reads} - set(written))
    gives = [name for name in written if last.get(name, -1) >= span.stop]
    return takes, gives, [name for name in takes if last[name] < span.stop]


def _weights_of(graph: _Graph, span: Span) -> list[str]:
    return list(dict.fromkeys(name for each in graph.operations[span.start : span.stop] for name in each.weights))


def _probe(graph: _Graph, crossing: Iterable[str]) -> Any:
    """A session that runs nothing, with the weights as inputs: it knows the types of all values that cross a cut."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    _weights_as_inputs(model.graph, graph, graph.large, graph.small)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(crossing))
    return ort.InferenceSession(model.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"])


_ELEMENTS: Final = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(bfloat16)": TensorProto.BFLOAT16,
    "tensor(int8)": TensorProto.INT8,
    "tensor(int16)": TensorProto.INT16,
    "tensor(int32)": TensorProto.INT32,
    "tensor(int64)": TensorProto.INT64,
    "tensor(uint8)": TensorProto.UINT8,
    "tensor(uint16)": TensorProto.UINT16,
    "tensor(uint32)": TensorProto.UINT32,
    "tensor(uint64)": TensorProto.UINT64,
    "tensor(bool)": TensorProto.BOOL,
}


def _value(name: str, types: Mapping[str, str]) -> Any:
    """A value of known type and unknown shape."""
    if types[name] not in _ELEMENTS:
        raise NotDivisible(f"{name!r} is a {types[name]}, which cannot cross between two units")
    value = onnx.ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = _ELEMENTS[types[name]]
    return value


def _unit_model(graph: _Graph, span: Span, last: Mapping[str, int], types: Mapping[str, str]) -> UnitModel:
    takes, gives, drops = _edges(graph, span, last)
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for part in ("node", "input", "output", "value_info"):
        model.graph.ClearField(part)
    nodes = graph.model.graph.node[span.start : span.stop]
    model.graph.node.extend(nodes)
    model.graph.input.extend(_value(name, types) for name in takes)
    model.graph.output.extend(_value(name, types) for name in gives)
    used = {name for node in nodes for name in read_by(node)}
    _weights_as_inputs(model.graph, graph, _weights_of(graph, span), [name for name in graph.small if name in used])
    return UnitModel(model=model.SerializeToString(), takes=takes, gives=gives, drops=drops)


def _weights_as_inputs(target: Any, graph: _Graph, names: Iterable[str], small: Iterable[str]) -> None:
    """The graph's large weights become inputs; of the small ones these stay."""
    target.ClearField("initializer")
    target.initializer.extend(graph.small[name] for name in small)
    for name in names:
        tensor = graph.large[name]
        target.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))


def _piece(graph: _Graph, name: str) -> tuple[Piece, Bytes]:
    tensor = TensorProto()
    tensor.CopyFrom(graph.large[name])
    external_data_helper.load_external_data_for_tensor(tensor, str(graph.folder))
    piece = Piece(name=name, dtype=str(tensor.data_type), shape=list(tensor.dims), offset=0, size=0)
    return piece, numpy_helper.to_array(tensor).reshape(-1).view("u1")


def _unit_name(graph: _Graph, position: int, span: Span) -> str:
    node = next((n for n in graph.model.graph.node[span.start : span.stop] if set(n.input) & set(graph.large)), None)
    return f"{position}:{(node.name or node.op_type) if node is not None else 'no weights'}"


def _signature(probe: Any, graph: _Graph, model: str) -> dict[str, Any]:
    """Inputs and outputs of the whole model as the ONNX backend gives them."""
    from batchwright_worker.backends.onnx import spec_of

    inputs = [value for value in probe.get_inputs() if value.name not in graph.large]
    outputs = {value.name: value for value in probe.get_outputs()}
    specs = [spec_of(value, model) for value in (*inputs, *(outputs[name] for name in graph.outputs))]
    batch = inputs[0].shape[0] if inputs else 0
    piece = batch if isinstance(batch, int) else 0
    return {"inputs": specs[: len(inputs)], "outputs": specs[len(inputs) :], "piece": piece}
