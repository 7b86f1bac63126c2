"""torch.export programs, cut into units: the graph's own order, one small graph module per unit.

What depends on weights alone (a transposed matrix, a table of positions) is no activation: every unit that uses it
works it out again from weights of its own, so that nothing in flight is a view of another unit's weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import fx
from torch.export.graph_signature import InputKind, OutputKind

from batchwright_worker.layerwise.networks.cuts import Operation, Span, cut
from batchwright_worker.layerwise.networks.units import (
    Bytes,
    NotDivisible,
    Piece,
    UnitIndex,
    UnitWriter,
    write_index,
    write_tables,
)

__all__ = ["GATHERED_BYTES", "PROGRAM_FILE", "SplitProgram", "UnitGraph", "onto", "prepare", "split"]

PROGRAM_FILE: Final = "program.pt2"
"""The program with weights that have shapes and no contents."""
_HELD: Final = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
GATHERED_BYTES: Final = 1 << 20
"""Tables from this size on are not fetched for the few rows of them that a batch looks up."""
_MOST_BEFORE: Final = 32
"""Operations that make the indices of a look-up from the inputs; they are done on the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitGraph:
    """`module(*takes, *weights)` gives `gives`; behind it the activations `drops` are dead. Names of nodes."""

    module: Any
    takes: tuple[str, ...]
    weights: tuple[str, ...]
    gives: tuple[str, ...]
    drops: tuple[str, ...]
    operations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitProgram:
    """The units in order, and what is done on the host before the first one: rows of large tables are gathered there
    instead of fetching the tables (None: there are none)."""

    units: list[UnitGraph]
    gather: UnitGraph | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _SortedGraph:
    """The graph sorted out: `work` depends on the inputs, `fixed` on weights alone, `gather` looks rows up on the host
    (what makes its indices is there, and in `work` where units need it too)."""

    work: list[Any]
    gather: list[Any]
    fixed: frozenset[Any]
    weights: Mapping[str, str]
    """Placeholder -> key of the weight."""
    outputs: tuple[str, ...]


def prepare(program: Any, folder: Path, model: str, digest: str, limit_bytes: int, least_bytes: int = 0) -> UnitIndex:
    """Fill the folder from a program with its weights. Raises NotDivisible."""
    tensors = _tensors(program)
    found = split(program, limit_bytes, least_bytes)
    tables = write_tables(folder, [_piece(key, tensors[key]) for key in (found.gather.weights if found.gather else ())])
    with UnitWriter(folder) as writer:
        for position, graph in enumerate(found.units):
            pieces = [_piece(key, tensors[key]) for key in graph.weights]
            writer.add(_unit_name(position, graph.weights), pieces, graph.operations)
        index = writer.index(model, digest, tables)
    _save_hollow(program, folder / PROGRAM_FILE)
    return write_index(folder, index)


def split(program: Any, limit_bytes: int, least_bytes: int = 0) -> SplitProgram:
    """The same for the same program and limits, whatever the weights hold."""
    _detach_copies(program)
    plan = _plan(program)
    sizes = {key: value.numel() * value.element_size() for key, value in _tensors(program).items()}
    operations = [_operation(node, plan, program, sizes) for node in plan.work]
    if not operations:
        raise NotDivisible("the program computes nothing from its inputs")
    light = {node.name for node in plan.work if isinstance(node.meta.get("val"), torch.SymInt | int | bool)}
    spans = cut(operations, limit_bytes, light, least_bytes)
    last_read = _last_reads(plan, operations)
    units = [_unit(program, plan, operations, span, last_read) for span in spans]
    gives = tuple(node.name for node in plan.gather if _looks_up(node))
    gather = _graph(program, plan, plan.gather, gives, {}) if gives else None
    return SplitProgram(units=units, gather=gather)


def _detach_copies(program: Any) -> None:
    """`torch.tensor(..)` in a forward method is exported with a `detach_`, which counts as writing to a constant and
    writes nothing."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.detach_.default:
            node.target = torch.ops.aten.detach.default


def _plan(program: Any) -> _SortedGraph:
    signature = program.graph_signature
    if any(spec.kind is not OutputKind.USER_OUTPUT for spec in signature.output_specs):
        raise NotDivisible("the program writes to its own buffers or inputs; export it in eval() mode")
    strange = [spec for spec in signature.input_specs if spec.kind not in (*_HELD, InputKind.USER_INPUT)]
    if strange:
        raise NotDivisible(f"the program has an input of kind {strange[0].kind.name}, which cannot be streamed")
    weights = {spec.arg.name: spec.target for spec in signature.input_specs if spec.kind in _HELD}
    fixed: set[Any] = {node for node in program.graph.nodes if node.op == "get_attr" or node.name in weights}
    work = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if not node.users and not _mutates(node):
            continue  # a check of shapes, or dead
        if all(parent in fixed for parent in node.all_input_nodes):
            _refuse_writes(node)
            fixed.add(node)
        else:
            work.append(node)
    outputs = tuple(str(name) for name in signature.user_outputs)
    if any(name not in {node.name for node in work} for name in outputs):
        raise NotDivisible("an output of the program does not depend on its inputs, or is one of them")
    plan = _SortedGraph(work=work, gather=[], fixed=frozenset(fixed), weights=weights, outputs=outputs)
    return _without_look_ups(plan, _look_ups(plan, _tensors(program)))


def _looks_up(node: Any) -> bool:
    return node.target is torch.ops.aten.embedding.default


def _look_ups(plan: _SortedGraph, tensors: Mapping[str, Any]) -> list[Any]:
    """Nodes that look rows up in large tables which nothing else uses, by indices that follow from the inputs alone."""
    found = []
    for node in plan.work:
        key = plan.weights.get(node.args[0].name) if _looks_up(node) else None
        if key is None or tensors[key].numel() * tensors[key].element_size() < GATHERED_BYTES:
            continue
        users = [user for table in _placeholders(plan, node.graph, key) for user in table.users]
        alone = all(_looks_up(user) and user.name not in plan.outputs for user in users)
        if alone and all(_before(user, plan) is not None for user in users):
            found.append(node)
    return found


def _placeholders(plan: _SortedGraph, graph: Any, key: str) -> list[Any]:
    return [node for node in graph.nodes if node.op == "placeholder" and plan.weights.get(node.name) == key]


def _before(look_up: Any, plan: _SortedGraph) -> set[Any] | None:
    """What makes its indices from the inputs; None if that is more than a few operations, or takes weights."""
    before: set[Any] = set()
    open_nodes = [look_up.args[1]]
    while open_nodes:
        node = open_nodes.pop()
        if node.op != "call_function" or node in before:
            continue
        before.add(node)
        if len(before) > _MOST_BEFORE or _mutates(node) or _weights_of([node], plan):
            return None
        open_nodes += node.all_input_nodes
    return before


def _without_look_ups(plan: _SortedGraph, look_ups: Sequence[Any]) -> _SortedGraph:
    gather = set(look_ups).union(*(_before(node, plan) or () for node in look_ups))
    gone = set(look_ups)
    for node in reversed(plan.work):
        # What only the look-ups need is not worked out again in a unit.
        if node in gather and all(user in gone for user in node.users) and node.name not in plan.outputs:
            gone.add(node)
    return _SortedGraph(
        work=[node for node in plan.work if node not in gone],
        gather=[node for node in plan.work if node in gather],
        fixed=plan.fixed,
        weights=plan.weights,
        outputs=plan.outputs,
    )


def _mutates(node: Any) -> bool:
    return bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))


def _refuse_writes(node: Any) -> None:
    if _mutates(node):
        raise NotDivisible(f"the program writes to its weights ({node.name}); export it in eval() mode")


def _tensors(program: Any) -> dict[str, Any]:
    named = {**program.constants, **program.state_dict}
    return {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}


def _operation(node: Any, plan: _SortedGraph, program: Any, sizes: Mapping[str, int]) -> Operation:
    keys = _weights_of([node], plan)
    tensors = _tensors(program)
    return Operation(
        reads=frozenset(parent.name for parent in node.all_input_nodes if parent not in plan.fixed),
        writes=(node.name,),
        weights={key: sizes[key] for key in keys},
        matrices=frozenset(key for key in keys if tensors[key].dim() > 1 and tensors[key].numel() > 1),
    )


def _weights_of(nodes: Sequence[Any], plan: _SortedGraph) -> list[str]:
    """Keys of the weights that these nodes need, also by way of `fixed` nodes; in the graph's order of use."""
    found: dict[str, None] = {}
    for node in (*_fixed_before(nodes, plan), *nodes):
        for parent in node.all_input_nodes:
            if parent.name in plan.weights:
                found[plan.weights[parent.name]] = None
    return list(found)


def _fixed_before(nodes: Sequence[Any], plan: _SortedGraph) -> list[Any]:
    """The `fixed` computations that these nodes need, in the graph's order."""
    needed: set[Any] = set()
    open_nodes = list(nodes)
    while open_nodes:
        for parent in open_nodes.pop().all_input_nodes:
            if parent in plan.fixed and parent.op != "placeholder" and parent not in needed:
                needed.add(parent)
                open_nodes.append(parent)
    return [node for node in next(iter(nodes)).graph.nodes if node in needed] if needed else []


def _last_reads(plan: _SortedGraph, operations: Sequence[Operation]) -> dict[str, int]:
    """Where each activation is read last; outputs are read behind the end."""
    last = {name: index for index, operation in enumerate(operations) for name in operation.reads}
    return {**last, **dict.fromkeys(plan.outputs, len(operations))}


def _unit(
    program: Any, plan: _SortedGraph, operations: Sequence[Operation], span: Span, last_read: Mapping[str, int]
) -> UnitGraph:
    nodes = plan.work[span.start : span.stop]
    gives = tuple(node.name for node in nodes if last_read.get(node.name, -1) >= span.stop)
    return _graph(program, plan, nodes, gives, {name for name, last in last_read.items() if last < span.stop})


def _graph(
    program: Any, plan: _SortedGraph, nodes: Sequence[Any], gives: tuple[str, ...], dead: Collection[str]
) -> UnitGraph:
    """These nodes as a module of its own; behind it `dead` activations are needed no more."""
    written = {node.name for node in nodes}
    takes = tuple(
        sorted({each.name for node in nodes for each in node.all_input_nodes if each not in plan.fixed} - written)
    )
    weights = tuple(_weights_of(nodes, plan))
    graph, made = fx.Graph(), {}
    for name in takes:
        made[name] = graph.placeholder(name)
    by_key = {key: graph.placeholder(f"weight_{index}") for index, key in enumerate(weights)}
    for name, key in plan.weights.items():
        if key in by_key:
            made[name] = by_key[key]
    for node in (*_fixed_before(nodes, plan), *nodes):
        made[node.name] = graph.node_copy(node, lambda old: made[old.name])
    graph.output(tuple(made[name] for name in gives))
    return UnitGraph(
        module=fx.GraphModule(program.graph_module, graph),
        takes=takes,
        weights=weights,
        gives=gives,
        drops=tuple(name for name in takes if name in dead),
        operations=len(nodes),
    )


def onto(graph: UnitGraph, device: Any) -> None:
    """Let what the unit makes by itself (ranges, constants) be made on this device, also in the bodies of branches and
    loops; in place. Raises NotDivisible for operations that run on a CPU alone."""

    def moved(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for module in graph.module.modules():
        if not isinstance(module, fx.GraphModule):
            continue
        for node in module.graph.nodes:
            if node.op == "call_function" and "_for_cpu" in str(node.target):
                raise NotDivisible(
                    f"the program was exported with {node.target}, which runs on a CPU alone: export it with "
                    "torch.export.export and without run_decompositions, or on the GPU"
                )
            node.args = fx.node.map_aggregate(node.args, moved)
            node.kwargs = fx.node.map_aggregate(node.kwargs, moved)
        module.recompile()


def _piece(key: str, tensor: Any) -> tuple[Piece, Bytes]:
    """A weight with its strides where it lies dense in memory (kernels may choose by them), else row by row."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
        raise NotDivisible(f"weight {key} is sparse, quantized or complex, which cannot be streamed")
    value = tensor.detach()
    dense = value.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(value)
    value = value if dense else value.contiguous()
    flat = torch.as_strided(value, (value.numel(),), (1,))
    piece = Piece(
        name=key,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=list(value.shape),
        stride=[] if value.is_contiguous() else list(value.stride()),
        offset=0,
        size=0,
    )
    data: Bytes = flat.view(torch.uint8).numpy()
    return piece, data


def _unit_name(position: int, weights: Sequence[str]) -> str:
    """The common part of the names of the modules whose weights it contains."""
    stems = [key.rsplit(".", 1)[0].split(".") for key in weights]
    common: list[str] = []
    for words in zip(*stems, strict=False):
        if len(set(words)) > 1:
            break
        common.append(words[0])
    return f"{position}:{'.'.join(common) or (weights[0] if weights else 'no weights')}"


def _save_hollow(program: Any, path: Path) -> None:
    """The program for later loads, which then take no memory for weights; `program` is hollow afterwards."""
    hollow = dict(_hollow(program.state_dict))
    program._state_dict = hollow
    program._constants = {
        name: value if not isinstance(value, torch.Tensor) else dict(_hollow({name: value}))[name]
        for name, value in program.constants.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it misses the contents, on purpose
        torch.export.save(program, path)


def _hollow(tensors: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in tensors.items():
        empty = torch.zeros(1, dtype=value.dtype).expand(value.shape) if value.dim() else value.detach()
        is_parameter = isinstance(value, torch.nn.Parameter)
        yield name, torch.nn.Parameter(empty, requires_grad=False) if is_parameter else empty
