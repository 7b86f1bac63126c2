"""The cluster as placement sees it: facts per node, shared by all pods and kept up to date by what changed. Pure.

A cycle that read everything anew would cost as much as the cluster is large, however little there is to decide: with
1,000 nodes, 5,000 pods and another 30,000 of others that is a second per cycle, and a cycle follows each event.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Final

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.api.model_deployment import parse
from batchwright_operator.kube.metadata import label
from batchwright_operator.kube.objects import (
    ACCELERATOR_PROFILE,
    DEPLOYMENT,
    MODEL_DEPLOYMENT,
    NODE,
    POD,
    REPLICA_SET,
    Raw,
    Resource,
)
from batchwright_operator.kube.quantities import Amounts, requests_of
from batchwright_operator.placement.demand import Claims, DeploymentInfo, deployment_info, ratio_of
from batchwright_operator.placement.node_changes import NodeChanges
from batchwright_operator.placement.placed_pods import Owner, PlacedPod, model_pod
from batchwright_operator.placement.refusals import Refusals
from batchwright_operator.placement.usage import Usage
from batchwright_operator.pods.endings import turned_away_by
from batchwright_operator.pods.lifecycle import is_over
from batchwright_operator.pods.owner_chain import OwnerChains
from batchwright_operator.processors.nodes import NodeInfo, node_info
from batchwright_operator.processors.processor import Processor, processors_of
from batchwright_operator.reconcile.interfaces import Changes, StoreView
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.reconcile.parsed_objects import ParsedOnDemand
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import COMPONENT_MODEL, LABEL_COMPONENT

Place = tuple[str, str]
"""(namespace, name)"""
AT_ONCE: Final = 200
"""Changes that are looked at without a pause."""
AIR: Final = 50
SHAPES_MAX: Final = 5000
"""Requests that pods of others share; those of an autoscaler are others every hour."""
RATIO_MOVED: Final = 0.05
"""A forecast that moved by more than this share counts."""
_NONE: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What is counted of one pod, and where. `pod`: of a ModelDeployment."""

    node: str
    pod: PlacedPod | None = None


class ClusterState:
    """All facts that a cycle decides on. `update` brings them up to date; a cycle adds what it decided (`assume`)."""

    def __init__(self, settings: Settings, live: LiveState) -> None:
        self._nodes: dict[str, NodeInfo] = {}
        self.processors: dict[str, Mapping[str, Processor]] = {}
        self.gated: dict[str, dict[Place, PlacedPod]] = {}
        """Namespace -> pods to place."""
        self.refused: dict[Place, PlacedPod] = {}
        """Pods that were bound to a node where the scheduler finds that they do not fit."""
        self.new: list[PlacedPod] = []
        """Pods that are to be placed, until somebody takes note of them."""
        self.changes = NodeChanges()
        self.usage = Usage(self)
        self._settings, self._live = settings, live
        self._store: StoreView
        self._feeds: dict[Resource, Changes] = {}
        self._entries: dict[Place, _Entry] = {}
        self._replicas: dict[Owner, dict[Place, PlacedPod]] = defaultdict(dict)
        self._deployments: ParsedOnDemand[DeploymentInfo | InvalidSpec] = ParsedOnDemand(self._parsed)
        self._models = ParsedOnDemand(model_pod)
        self._uids: dict[tuple[Resource, Place], str] = {}
        """Of what stands between ModelDeployments and pods."""
        self._offering: dict[str, set[str]] = defaultdict(set)
        """Kind -> nodes that offer it."""
        self._sampled: dict[tuple[str, str], Sample] = {}
        self._known: dict[Owner, DeploymentInfo | InvalidSpec | None] = {}
        """As of the last update, as the ratios."""
        self._ratios: dict[Owner, float | None] = {}
        self._is_current = False
        self._to_see_nodes: dict[str, None] = {}
        self._to_see_profiles: dict[str, None] = {}
        self._to_see_pods: dict[Place, None] = {}
        self._last_ratios: dict[Owner, float | None] = {}
        self._assumed: dict[Place, bool] = {}
        """Pods that something was decided for since the last update -> whether that was answered."""
        self._refusals = Refusals()
        self._amounts: dict[tuple[tuple[str, float], ...], Amounts] = {}

    # --- reading

    @property
    def nodes(self) -> Mapping[str, NodeInfo]:
        """By name."""
        return self._nodes

    @property
    def waiting(self) -> int:
        """How many pods are to be placed."""
        return sum(map(len, self.gated.values()))

    def processor(self, node: str, kind: str) -> Processor | None:
        """The profile's entry; None where there is none yet."""
        found = self.processors.get(node)
        return None if found is None else found.get(kind)

    @property
    def samples(self) -> Mapping[tuple[str, str], Sample]:
        """(node, kind) -> sample, however old."""
        return self._sampled

    def fresh_sample(self, node: str, kind: str, now: float) -> Sample | None:
        """The sample of a processor, unless it is stale."""
        sample = self._sampled.get((node, kind))
        if sample is None or now - sample.taken_at > self._settings.sample_stale_seconds:
            return None
        return sample

    def nodes_with(self, kind: str) -> Set[str]:
        """Nodes that offer this kind."""
        return self._offering.get(kind, _NONE)

    def deployment(self, owner: Owner) -> DeploymentInfo | InvalidSpec | None:
        """The ModelDeployment; None when it has been deleted."""
        if owner not in self._known:
            self._known[owner] = self._deployments.of(owner, self._store.get(MODEL_DEPLOYMENT, *owner))
        return self._known[owner]

    @property
    def claims(self) -> Claims:
        """What is known of the cluster's claims."""
        return Claims(self._store)

    def excluded(self, pod: PlacedPod, now: float) -> Set[str]:
        """Nodes that the scheduler, or their kubelets, refused for pods like this one."""
        return self._refusals.excluded(pod, now)

    def resting(self, pod: PlacedPod, now: float) -> Mapping[str, float]:
        """Node -> when it may be tried again, of those whose kubelets turned pods like this one away."""
        return self._refusals.resting(pod, now)

    def ratio(self, owner: Owner) -> float | None:
        """Rows per benchmarked image of a deployment that has a replica at work on a benchmarked processor."""
        if owner not in self._ratios:
            running, states = [], self._live.sidecars
            for pod in self._replicas.get(owner, {}).values() if states else ():
                if pod.node and (received := states.get(pod.uid)) is not None:
                    processor = self.processor(pod.node, pod.kind)
                    if processor is not None and processor.capacity:
                        running.append((received.state, processor.capacity))
            self._ratios[owner] = ratio = ratio_of(running)
            before = self._last_ratios.get(owner)
            if before != ratio and (before is None or ratio is None or abs(ratio - before) > RATIO_MOVED * before):
                self._last_ratios[owner] = ratio
                for node in self.usage.replicas.get(owner, ()):
                    self.changes.note(node)  # its pods' shares are others now
        return self._ratios[owner]

    def uids_to_decide_on(self) -> set[str]:
        """Of all pods that have no place, or none that the scheduler accepts."""
        gated = {pod.uid for pods in self.gated.values() for pod in pods.values()}
        assumed = {entry.pod.uid for place in self._assumed if (entry := self._entries.get(place)) and entry.pod}
        return gated | assumed | {pod.uid for pod in self.refused.values()}

    # --- what a cycle decided

    def assume(self, pod: PlacedPod, node: str) -> None:
        """Something was decided for the pod: it counts on this node (empty: on none), and is not to be decided on
        again, until that was `answered` and the next update."""
        place = pod.place
        self._assumed[place] = False
        self._take_out(place)
        self._put_in(place, _Entry(node=node, pod=pod), pod.requests)

    def uid_of(self, place: Place) -> str:
        """Of a replica; empty if there is none."""
        entry = self._entries.get(place)
        return entry.pod.uid if entry is not None and entry.pod is not None else ""

    def answered(self, place: Place) -> None:
        """The cache has what became of the pod."""
        if place in self._assumed:
            self._assumed[place] = True

    # --- bringing up to date

    def update(self, store: StoreView) -> bool:
        """Takes over what changed in the cache, and the newest samples; False: so much that the rest is left to
        `catching_up`."""
        self._store = store
        self._ratios.clear()
        self._known.clear()
        self._is_current = False
        for _, name in self._changed(NODE, (("", name) for name in self.nodes)):
            self._to_see_nodes[name] = None
        for _, name in self._changed(ACCELERATOR_PROFILE, (("", name) for name in self.processors)):
            self._to_see_profiles[name] = None
        answered = [place for place, is_answered in self._assumed.items() if is_answered]
        for place in answered:
            del self._assumed[place]
        pods = [*answered, *self._changed(POD, self._entries), *self._pods_of_new_owners()]
        self._to_see_pods.update(dict.fromkeys(pods))
        if self._left_to_see > AT_ONCE:
            return False
        for _ in self.catching_up():
            pass
        return True

    def catching_up(self) -> Iterator[None]:
        """Looks at what changed; comes up for air now and then. Nothing may be decided before the end."""
        if self._is_current:
            return
        chains, number = OwnerChains(self._store), 0
        while self._left_to_see:
            if self._to_see_nodes:
                name, _ = self._to_see_nodes.popitem()
                self._look_at_node(name, self._store.get(NODE, "", name))
            elif self._to_see_profiles:
                name, _ = self._to_see_profiles.popitem()
                self._look_at_profile(name, self._store.get(ACCELERATOR_PROFILE, "", name))
            else:
                place, _ = self._to_see_pods.popitem()
                if place not in self._assumed:
                    self._look_at_pod(place, self._store.get(POD, *place), chains)
            number += 1
            if number % AIR == 0:
                yield
                chains = OwnerChains(self._store)
        self.changes.forget_gone(self._nodes)
        self._look_at_samples()
        self.usage.update()
        self._refusals.update(self.refused.values(), self.usage.requested, self.nodes)
        self._is_current = True

    @property
    def _left_to_see(self) -> int:
        return len(self._to_see_nodes) + len(self._to_see_profiles) + len(self._to_see_pods)

    def _changed(self, resource: Resource, known: Iterable[Place]) -> Iterable[Place]:
        """Of the objects of a resource, of which these were there at the last look."""
        feed = self._feeds.get(resource)
        if feed is None:
            feed = self._feeds[resource] = self._store.changes(resource)
        found = feed.take()
        if found is not None:
            return found
        return dict.fromkeys([*known, *map(_place, self._store.all(resource))])

    def _look_at_node(self, name: str, raw: Raw | None) -> None:
        before = self._nodes.pop(name, None)
        for kind in _kinds(before):
            self._offering[kind].discard(name)
        if raw is not None:
            self._nodes[name] = info = node_info(raw)
            for kind in _kinds(info):
                self._offering[kind].add(name)
        self.changes.note(name)

    def _look_at_profile(self, name: str, raw: Raw | None) -> None:
        if raw is None:
            self.processors.pop(name, None)
        else:
            self.processors[name] = processors_of(raw)
        self.changes.note(name)

    def _pods_of_new_owners(self) -> Iterator[Place]:
        """A pod may be seen before its ReplicaSet is, and outlives a ModelDeployment for a moment."""
        for resource, below in ((MODEL_DEPLOYMENT, DEPLOYMENT), (DEPLOYMENT, REPLICA_SET), (REPLICA_SET, POD)):
            known = [place for of, place in self._uids if of == resource]
            for place in self._changed(resource, known):
                raw = self._store.get(resource, *place)
                if raw is None and resource == MODEL_DEPLOYMENT:
                    self._deployments.of(place, None)
                uid = raw["metadata"]["uid"] if raw is not None else None
                before = self._uids.pop((resource, place), None)
                if uid is not None:
                    self._uids[resource, place] = uid
                if uid != before:  # their status changes all the time, which says nothing here
                    for gone_or_new in filter(None, (before, uid)):
                        yield from self._below(below, gone_or_new)

    def _below(self, resource: Resource, uid: str) -> Iterator[Place]:
        for raw in self._store.owned(resource, uid):
            if resource == POD:
                yield _place(raw)
            else:
                below = REPLICA_SET if resource == DEPLOYMENT else POD
                yield from self._below(below, raw["metadata"]["uid"])

    def _look_at_pod(self, place: Place, raw: Raw | None, chains: OwnerChains) -> None:
        was_gated = self._take_out(place)
        if raw is None or is_over(raw):
            self._models.of(place, None)
            self._look_at_end(place, raw, chains)
            return
        if label(raw, LABEL_COMPONENT) != COMPONENT_MODEL or chains.model_deployment_of(raw) is None:
            self._models.of(place, None)
            # Its labels and annotations say nothing, whatever they say: it is where it runs.
            if node := (raw.get("spec") or {}).get("nodeName"):
                self._put_in(place, _Entry(node=node), self._shared(requests_of(raw["spec"])))
            return
        pod = self._models.of(place, raw)
        assert pod is not None
        if pod.refused:
            self.refused[place] = pod
        elif pod.gated and not pod.terminating:
            self.gated.setdefault(pod.namespace, {})[place] = pod
            if not was_gated:
                self.new.append(pod)
        self._put_in(place, _Entry(node="" if pod.refused else pod.node, pod=pod), pod.requests)

    def _look_at_end(self, place: Place, raw: Raw | None, chains: OwnerChains) -> None:
        """Of a pod that is over, or gone."""
        node = self._nodes.get(turned_away_by(raw)) if raw is not None else None
        if raw is None or node is None or chains.model_deployment_of(raw) is None:
            self._refusals.forget(place)
        else:
            self._refusals.turned_away(model_pod(raw), node)

    def _put_in(self, place: Place, entry: _Entry, requests: Amounts) -> None:
        self._entries[place] = entry
        if entry.pod is not None:
            self._replicas[entry.pod.owner][place] = entry.pod
        if entry.node:
            self.usage.put(place, entry.node, requests, entry.pod)
            self.changes.note(entry.node)

    def _take_out(self, place: Place) -> bool:
        """Whether the pod was to be placed."""
        entry = self._entries.pop(place, None)
        if entry is None:
            return False
        self.refused.pop(place, None)
        gated = self.gated.get(place[0])
        was_gated = gated is not None and gated.pop(place, None) is not None
        if was_gated and not gated:
            del self.gated[place[0]]
        if entry.pod is not None:
            of_owner = self._replicas[entry.pod.owner]
            of_owner.pop(place, None)
            if not of_owner:
                del self._replicas[entry.pod.owner]
                self._last_ratios.pop(entry.pod.owner, None)
        if entry.node:
            self.usage.take(place, entry.node, entry.pod)
            self.changes.note(entry.node)
        return was_gated

    def _look_at_samples(self) -> None:
        newest = self._live.samples
        for at, sample in newest.items():
            if self._sampled.get(at) is not sample:
                self._sampled[at] = sample
                self.changes.note(at[0])
        if len(self._sampled) > len(newest):
            for at in self._sampled.keys() - newest.keys():
                del self._sampled[at]
                self.changes.note(at[0])

    def _shared(self, requests: Amounts) -> Amounts:
        """One dict for all pods of others that request the same: most come by the hundred."""
        if len(self._amounts) > SHAPES_MAX:
            self._amounts.clear()
        return self._amounts.setdefault(tuple(requests.items()), requests)

    def _parsed(self, raw: Raw) -> DeploymentInfo | InvalidSpec:
        try:
            return deployment_info(parse(raw), self._settings)
        except InvalidSpec as error:
            return error


def _place(raw: Raw) -> Place:
    return raw["metadata"].get("namespace", ""), raw["metadata"]["name"]


def _kinds(node: NodeInfo | None) -> set[str]:
    """Kinds that a node offers: what it is asked for as a resource counts, whoever's it is."""
    if node is None:
        return set()
    return {*node.kinds, *(name for name, amount in node.allocatable.items() if amount)}
