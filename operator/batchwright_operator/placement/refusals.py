"""Memory of the nodes that the cluster's scheduler refused for a pod that was bound there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Final

from batchwright_operator.kube.quantities import Amounts
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.processors.nodes import NodeInfo

_NONE: Final[frozenset[str]] = frozenset()


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

    def excluded(self, pod: PlacedPod) -> Set[str]:
        """Nodes that are refused now for pods like this one."""
        if not self._nodes:
            return _NONE
        of = (pod.namespace, pod.deployment, pod.kind)
        return {key[3] for key in self._nodes if key[:3] == of}

    def update(
        self,
        refused: Iterable[PlacedPod],
        requested: Callable[[str], Mapping[str, float]],
        nodes: Mapping[str, NodeInfo],
    ) -> None:
        """Adds new refusals; drops those whose node has changed, or has more room than it had then. `requested`: what
        the other pods of a node ask for."""
        for pod in refused:
            if pod.node in nodes:
                self._nodes[pod.namespace, pod.deployment, pod.kind, pod.node] = _RefusedNode(
                    fingerprint=nodes[pod.node].fingerprint(), requested=dict(requested(pod.node))
                )
        self._nodes = {
            key: then
            for key, then in self._nodes.items()
            if (node := nodes.get(key[3])) is not None
            and node.fingerprint() == then.fingerprint
            and all(requested(key[3]).get(name, 0.0) >= value for name, value in then.requested.items())
        }
