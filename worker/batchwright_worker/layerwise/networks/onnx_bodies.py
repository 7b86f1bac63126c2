"""The bodies of branches and loops in an ONNX graph: what they read, and the weights that they keep. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx
from onnx import TensorProto, external_data_helper

__all__ = ["is_large", "lift_weights", "read_by"]


def read_by(node: Any) -> Iterator[str]:
    """Inputs, and what the bodies of loops and branches take from around them."""
    yield from node.input
    for body in _bodies(node):
        inside = {value.name for value in (*body.input, *body.initializer)}
        inside |= {name for inner in body.node for name in inner.output}
        for inner in body.node:
            yield from (name for name in read_by(inner) if name not in inside)
        # A branch may give what is around it as it is.
        yield from (value.name for value in body.output if value.name not in inside)


def is_large(tensor: Any) -> bool:
    """Does it lie in a file beside the graph?"""
    return bool(external_data_helper.uses_external_data(tensor)) and tensor.data_type != TensorProto.STRING


def lift_weights(graph: Any) -> None:
    """Large weights of the bodies of branches and loops become the graph's own, under names that nothing else has: else
    they would stay in memory with the sub-model, beyond the budget."""
    lifted = []
    for node in graph.node:
        for body in _bodies(node):
            lift_weights(body)
            mine = [tensor for tensor in body.initializer if is_large(tensor)]
            names = {tensor.name: f"{tensor.name}/{node.output[0]}/{body.name}" for tensor in mine}
            _rename(body, names)
            for tensor in mine:
                body.initializer.remove(tensor)
                tensor.name = names[tensor.name]
                lifted.append(tensor)
    graph.initializer.extend(lifted)


def _rename(body: Any, names: Mapping[str, str]) -> None:
    for node in body.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for inner in _bodies(node):
            _rename(inner, names)
    for value in body.output:
        value.name = names.get(value.name, value.name)


def _bodies(node: Any) -> list[Any]:
    """The graphs of its branches, or of its loop."""
    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    with_bodies = [attribute for attribute in node.attribute if attribute.type in graphs]
    return [body for attribute in with_bodies for body in (attribute.g, *attribute.graphs)]
