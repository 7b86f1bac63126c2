"""Memory of the nodes that the cluster's scheduler refused for a pod that was bound there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from batchwright_operator.kube.quantities import Amounts, total
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.processors.nodes import NodeInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class _RefusedNode:
    """A node as it was when the scheduler refused a pod there."""

    fingerprint: object
    requested: Amounts


class Refusals:
    """(namespace, deployment, kind, node) that the scheduler refused, until the node changes.

    What only the scheduler checks (a host port, say) is met here for the first time, and the pod is deleted for it;
    without this memory its successor would be bound to the same node, forever. It is not persisted: after a restart
    such a node may be tried once more, which costs one pod and nothing else.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[str, str, str, str], _RefusedNode] = {}

    @property
    def excluded(self) -> frozenset[tuple[str, str, str, str]]:
        """What is refused now."""
        return frozenset(self._nodes)

    def update(self, refused: Iterable[PlacedPod], placed: Iterable[PlacedPod], nodes: Mapping[str, NodeInfo]) -> None:
        """Adds new refusals; drops those whose node has changed, or has more room than it had then."""
        concerned = {node for *_, node in self._nodes} | {pod.node for pod in refused}
        requests: dict[str, list[Amounts]] = defaultdict(list)
        for pod in placed:
            if pod.node in concerned:
                requests[pod.node].append(pod.requests)
        requested = {name: total(requests[name]) for name in concerned}
        for pod in refused:
            if pod.node in nodes:
                self._nodes[pod.namespace, pod.deployment, pod.kind, pod.node] = _RefusedNode(
                    fingerprint=nodes[pod.node].fingerprint(), requested=requested[pod.node]
                )
        self._nodes = {
            key: then
            for key, then in self._nodes.items()
            if (node := nodes.get(key[3])) is not None
            and node.fingerprint() == then.fingerprint
            and all(requested[key[3]].get(name, 0.0) >= value for name, value in then.requested.items())
        }
