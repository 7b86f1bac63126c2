"""Usage of the nodes by pods: what they request, and what they are expected to add to the samples. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final, Protocol

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.kube.quantities import Amounts
from batchwright_operator.placement.demand import DeploymentInfo
from batchwright_operator.placement.placed_pods import Owner, PlacedPod
from batchwright_operator.placement.scoring import expected_share
from batchwright_operator.processors.nodes import NodeInfo
from batchwright_operator.processors.processor import Processor
from batchwright_operator.reconcile.live_state import Sample
from batchwright_worker.api.names import KIND_CPU

Place = tuple[str, str]
_NOTHING: Final[Mapping[str, float]] = {}


class Known(Protocol):
    """What shares follow from."""

    @property
    def nodes(self) -> Mapping[str, NodeInfo]: ...

    @property
    def samples(self) -> Mapping[tuple[str, str], Sample]: ...

    def processor(self, node: str, kind: str) -> Processor | None: ...

    def deployment(self, owner: Owner) -> DeploymentInfo | InvalidSpec | None: ...

    def ratio(self, owner: Owner) -> float | None: ...


class Usage:
    """The pods on each node, counted; a cycle puts in every pod that it places, as the next one must see it."""

    def __init__(self, observed: Known) -> None:
        self._observed = observed
        self.replicas: dict[Owner, Counter[str]] = defaultdict(Counter)
        """Deployment -> node -> its pods there, without those that terminate."""
        self._requests: dict[str, dict[Place, Amounts]] = defaultdict(dict)
        self._models: dict[str, dict[Place, PlacedPod]] = defaultdict(dict)
        # Sums are made when they are asked for: of a node whose pods did not change they are kept, and those that
        # depend on samples and forecasts for one cycle.
        self._requested: dict[str, Amounts] = {}
        self._pending: dict[tuple[str, str], float] = {}

    def update(self) -> None:
        """Samples or forecasts may be others now."""
        self._pending.clear()

    def put(self, place: Place, node: str, requests: Amounts, pod: PlacedPod | None) -> None:
        """Counts a pod on a node: requests at once, its share until the samples show its work. `pod`: of a
        ModelDeployment."""
        self._requests[node][place] = requests
        if (requested := self._requested.get(node)) is not None:
            for name, value in requests.items():
                requested[name] = requested.get(name, 0.0) + value
        # Pods of others are in the samples alone, as nobody knows their share. One that terminates still holds its
        # requests, but adds no load, and is no replica that others are to be spread from.
        if pod is None or pod.terminating:
            return
        self._models[node][place] = pod
        self.replicas[pod.owner][node] += 1
        if (at := (node, pod.kind)) in self._pending:
            self._pending[at] += self._unseen_share(pod, node)

    def take(self, place: Place, node: str, pod: PlacedPod | None) -> None:
        """The pod is no longer there."""
        self._requests[node].pop(place, None)
        self._requested.pop(node, None)  # not subtracted: what is left of floats after many pods would be no zero
        if not self._requests[node]:
            del self._requests[node]
        if pod is None or self._models[node].pop(place, None) is None:
            return
        self._pending.pop((node, pod.kind), None)
        if not self._models[node]:
            del self._models[node]
        of_owner = self.replicas[pod.owner]
        of_owner[node] -= 1
        if not of_owner[node]:
            del of_owner[node]
        if not of_owner:
            del self.replicas[pod.owner]

    def requested(self, node: str) -> Mapping[str, float]:
        """Resource -> sum of the pods' requests on this node."""
        found = self._requested.get(node)
        if found is None:
            pods = self._requests.get(node)
            if not pods:
                return _NOTHING
            found = {}
            for requests in pods.values():
                for name, value in requests.items():
                    found[name] = found.get(name, 0.0) + value
            self._requested[node] = found
        return found

    def pending(self, node: str, kind: str) -> float:
        """Expected shares on this processor that no sample shows yet."""
        found = self._pending.get((node, kind))
        if found is None:
            pods = self._models.get(node, {}).values()
            found = self._pending[node, kind] = sum(self._unseen_share(pod, node) for pod in pods if pod.kind == kind)
        return found

    def _unseen_share(self, pod: PlacedPod, node: str) -> float:
        sample = self._observed.samples.get((node, pod.kind))
        # Without this every pod of a burst between two samples lands on the same node (method A4): at 4:2:1:1, 16 pods
        # on the fastest one, and half of the load served.
        unseen = pod.unseen(sample)
        return unseen * self.share(pod, node) if unseen else 0.0

    def share(self, pod: PlacedPod, node: str) -> float:
        """Expected share of the processor that this pod takes: target / forecast, else 1 / `maxServices`."""
        deployment = self._observed.deployment(pod.owner)
        target = None if deployment is None or isinstance(deployment, InvalidSpec) else deployment.target
        forecast = None if target is None else self.forecast(pod, node)
        processor = self._observed.processor(node, pod.kind)
        if pod.kind == KIND_CPU:
            services = processor.max_services if processor else None
            return expected_share(target=target, forecast=forecast, max_services=services)
        # The sample is the mean over the node's devices, and a device is exclusive: a pod keeps its own ones busy,
        # without a target wholly, and the others not at all.
        info = self._observed.nodes.get(node)
        devices = max(1.0, info.allocatable.get(pod.kind, 1.0)) if info else 1.0
        busy = expected_share(target=target, forecast=forecast, max_services=1)
        return busy * max(1.0, pod.requests.get(pod.kind, 1.0)) / devices

    def forecast(self, pod: PlacedPod, node: str) -> float | None:
        """Rows/s of one replica here: the processor's capacity times the model's own measured ratio."""
        ratio = self._observed.ratio(pod.owner)
        if not ratio:
            return None
        processor = self._observed.processor(node, pod.kind)
        return ratio * processor.capacity if processor and processor.capacity else None
