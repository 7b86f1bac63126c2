"""Memory of the nodes that refused a pod that was bound there: the cluster's scheduler, or the node's kubelet. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from batchwright_operator.kube.quantities import Amounts
from batchwright_operator.kube.times import unix
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.processors.nodes import NodeInfo

_NONE: Final[frozenset[str]] = frozenset()
_NOTHING: Final[Mapping[str, float]] = {}
FIRST_S: Final = 15.0
LAST_S: Final = 600.0
"""How long a node is left alone whose kubelet has turned away a pod, and at most: doubled by each one of an hour. Such
a pod uses nothing any more, so that the node looks as free as before, and its ReplicaSet makes another one at once."""
COUNTED_S: Final = 3600.0

Like: TypeAlias = tuple[str, str, str]
"""(namespace, deployment, kind): what pods have in common that a node refuses alike."""
Place: TypeAlias = tuple[str, str]
"""(namespace, name) of a pod."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RefusedNode:
    """A node as it was when the scheduler refused a pod there."""

    fingerprint: object
    requested: Amounts


@dataclass(slots=True)
class _TurnedAway:
    """Pods that are over, as the kubelet of this node did not take them; since it is as it is now."""

    node: NodeInfo
    placed_at: dict[Place, float] = field(default_factory=dict)
    """When they were placed, Unix seconds by our own clock."""
    until: float = 0.0
    """When the node may be tried again."""

    def count(self) -> None:
        """Something was added or taken out."""
        last = max(self.placed_at.values(), default=0.0)
        times = sum(at > last - COUNTED_S for at in self.placed_at.values())
        self.until = last + min(LAST_S, FIRST_S * 2.0 ** min(times - 1, 10))


class Refusals:
    """(namespace, deployment, kind, node) that the scheduler refused, until the node changes, or that a kubelet did,
    until the node changes or some time is over.

    What only the scheduler checks (a host port, say) is met here for the first time, and the pod is deleted for it;
    without this memory its successor would be bound to the same node, forever. It is not persisted: after a restart
    such a node may be tried once more, which costs one pod and nothing else. The pods that kubelets turned away are
    still there to be counted.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[str, str, str, str], _RefusedNode] = {}
        self._turned_away: dict[Like, dict[str, _TurnedAway]] = {}
        """By the name of the node."""
        self._of_pod: dict[Place, tuple[Like, str]] = {}

    def excluded(self, pod: PlacedPod, now: float) -> Set[str]:
        """Nodes that are refused now for pods like this one."""
        if not self._nodes and not self._turned_away:
            return _NONE
        of = _like(pod)
        return {key[3] for key in self._nodes if key[:3] == of} | self.resting(pod, now).keys()

    def resting(self, pod: PlacedPod, now: float) -> Mapping[str, float]:
        """Node -> when it may be tried again, of those whose kubelets turned pods like this one away."""
        found = self._turned_away.get(_like(pod)) if self._turned_away else None
        if not found:
            return _NOTHING
        # A receipt is an annotation, and says what whoever wrote it last wants: no node rests for longer than ever.
        return {node: each.until for node, each in found.items() if now < each.until <= now + LAST_S}

    def turned_away(self, pod: PlacedPod, node: NodeInfo) -> None:
        """The kubelet of this node did not take the pod, or did not keep it."""
        if pod.place in self._of_pod:
            return
        like = _like(pod)
        of_node = self._turned_away.setdefault(like, {}).setdefault(node.name, _TurnedAway(node))
        at = unix(pod.receipt.decided_time) if pod.receipt is not None else None
        of_node.placed_at[pod.place] = pod.created_at if at is None else at
        of_node.count()
        self._of_pod[pod.place] = (like, node.name)

    def forget(self, place: Place) -> None:
        """There is no such pod any more."""
        if (of := self._of_pod.pop(place, None)) is None:
            return
        like, node = of
        of_node = self._turned_away.get(like, {}).get(node)
        if of_node is None or of_node.placed_at.pop(place, None) is None:
            return  # the node has changed since
        of_node.count()
        if not of_node.placed_at:
            self._drop(like, node)

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
                self._nodes[*_like(pod), pod.node] = _RefusedNode(
                    fingerprint=nodes[pod.node].fingerprint(), requested=dict(requested(pod.node))
                )
        self._nodes = {
            key: then
            for key, then in self._nodes.items()
            if (node := nodes.get(key[3])) is not None
            and node.fingerprint() == then.fingerprint
            and all(requested(key[3]).get(name, 0.0) >= value for name, value in then.requested.items())
        }
        found = [(like, name, each) for like, of in self._turned_away.items() for name, each in of.items()]
        for like, name, each in found:
            now = nodes.get(name)
            if now is each.node:
                continue
            if now is None or now.fingerprint() != each.node.fingerprint():
                self._drop(like, name)
            else:
                each.node = now

    def _drop(self, like: Like, node: str) -> None:
        of_like = self._turned_away[like]
        del of_like[node]
        if not of_like:
            del self._turned_away[like]


def _like(pod: PlacedPod) -> Like:
    return pod.namespace, pod.deployment, pod.kind
