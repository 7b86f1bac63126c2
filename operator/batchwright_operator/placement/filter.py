"""Filter of nodes: which processors a pod could run on, and why not the others. Pure.

Cheap and decisive checks come first. The cluster's scheduler checks the fit again (A5), but a pod that it refuses has
to be deleted, as affinity is final; what is checked here keeps that rare.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from batchwright_operator.placement.demand import Demand
from batchwright_operator.processors.nodes import NodeInfo
from batchwright_operator.processors.processor import Processor
from batchwright_operator.processors.start import tolerates, unsupported
from batchwright_worker.api.names import KIND_CPU

_EPSILON: Final = 1e-9
"""Requests are summed as floats: after four pods of 200m, one core has a little less than 200m left."""
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
"""A whole number as kube-scheduler reads one; Python takes `1_000` for one, too."""
AWAITING_BENCHMARK: Final = "awaiting its first benchmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRejection:
    """Why a node was filtered out: `reason` is counted over the nodes, `detail` is for people."""

    reason: str
    detail: str = ""


def rejection_of(
    demand: Demand, node: NodeInfo, used: Mapping[str, float], processor: Processor | None
) -> NodeRejection | None:
    """Why the pod cannot run on the node's processor of its kind, or None when it can."""
    return (
        _usable(demand, node)
        or _selected(demand, node)
        or _tolerated(demand, node)
        or _memory(demand, processor)
        or insufficient(demand, node, used)
        or _measured(demand, node, processor)
    )


def insufficient(demand: Demand, node: NodeInfo, used: Mapping[str, float]) -> NodeRejection | None:
    """The first resource that the node has too little of, after what its pods have asked for."""
    for name, wanted in demand.requests.items():
        free = node.allocatable.get(name, 0.0) - used.get(name, 0.0)
        if wanted > free + _EPSILON and wanted > 0:
            return NodeRejection(reason=f"insufficient {name}", detail=f"needs {wanted:g}, has {max(free, 0):g} free")
    return None


def describe_counts(reasons: Mapping[str, int], seen: int) -> str:
    """Counted reasons, most frequent first: `none of 3 nodes fits: 2 insufficient cpu, 1 cordoned`."""
    if not seen:
        return "the cluster has no node"
    return f"none of {seen} node{'s' if seen > 1 else ''} fits: {counted(reasons)}"


def counted(reasons: Mapping[str, int]) -> str:
    """`2 insufficient cpu, 1 cordoned`; empty for none."""
    if not reasons:
        return ""
    return ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items(), key=lambda each: (-each[1], each[0])))


def _usable(demand: Demand, node: NodeInfo) -> NodeRejection | None:
    if not node.ready:
        return NodeRejection(reason="not ready")
    if node.cordoned:
        return NodeRejection(reason="cordoned")
    if demand.architectures and (other := unsupported(node, demand.architectures)):
        return NodeRejection(reason=f"the image does not run on {other}")
    if demand.kind not in node.kinds and not node.allocatable.get(demand.kind):
        return NodeRejection(reason=f"without {demand.kind}")
    return None


def _selected(demand: Demand, node: NodeInfo) -> NodeRejection | None:
    for key, value in demand.node_selector.items():
        if node.labels.get(key) != value:
            return NodeRejection(reason="not selected", detail=f"label {key} is not {value}")
    if demand.node_terms and not all(any(_term(term, node) for term in terms) for terms in demand.node_terms):
        return NodeRejection(reason="out of reach", detail="node affinity of the pod or of its volumes")
    return None


def _tolerated(demand: Demand, node: NodeInfo) -> NodeRejection | None:
    for taint in node.taints:
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not any(
            tolerates(each, taint) for each in demand.tolerations
        ):
            return NodeRejection(reason="tainted", detail=f"{taint.get('key')}={taint.get('value', '')}")
    return None


def _memory(demand: Demand, processor: Processor | None) -> NodeRejection | None:
    devices = processor.devices if processor else ()
    # The smallest one: which device of the node a pod is given is up to its device plugin.
    smallest = min((each.memory_bytes for each in devices if each.memory_bytes), default=0)
    if demand.kind != KIND_CPU and smallest and demand.model_memory_bytes > smallest:
        return NodeRejection(
            reason="device memory too small", detail=f"needs {demand.model_memory_bytes}, a device has {smallest} bytes"
        )
    return None


def _measured(demand: Demand, node: NodeInfo, processor: Processor | None) -> NodeRejection | None:
    # Only what is to be benchmarked is waited for: not a node that is opted out, nor a resource of an unknown vendor.
    if node.opted_out or demand.kind not in node.kinds:
        return None
    return NodeRejection(reason=AWAITING_BENCHMARK) if processor is None or processor.awaiting else None


def _term(term: Mapping[str, Any], node: NodeInfo) -> bool:
    """One node selector term: all of its expressions and fields; a term without any matches nothing."""
    expressions = term.get("matchExpressions") or []
    fields = term.get("matchFields") or []
    return bool(expressions or fields) and all(
        [_expression(each, node.labels) for each in expressions]
        + [_expression(each, {"metadata.name": node.name}) for each in fields]
    )


def _expression(expression: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    found, wanted = values.get(expression["key"]), expression.get("values") or []
    match expression.get("operator"):
        case "In":
            return found in wanted
        case "NotIn":
            return found not in wanted
        case "Exists":
            return found is not None
        case "DoesNotExist":
            return found is None
        case "Gt" | "Lt" as operator:
            return _compared(found, wanted, larger=operator == "Gt")
    return False


def _compared(found: str | None, wanted: Sequence[str], *, larger: bool) -> bool:
    texts = (found or "", *wanted[:1])
    if len(texts) < 2 or not all(_WHOLE.fullmatch(text) for text in texts):
        return False
    one, other = map(int, texts)
    return one > other if larger else one < other
