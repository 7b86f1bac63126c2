"""Usage of the nodes by placed pods: what they request, and what they are expected to add to the samples. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.kube.quantities import Amounts
from batchwright_operator.placement.placed_pods import Owner, PlacedPod
from batchwright_operator.placement.scoring import expected_share
from batchwright_operator.placement.snapshot import ObservedCluster
from batchwright_worker.api.names import KIND_CPU


class Usage:
    """The placed pods of a snapshot, counted; a cycle adds every pod that it places, as the next one must see it."""

    def __init__(self, observed: ObservedCluster) -> None:
        self._observed = observed
        self.requested: dict[str, Amounts] = defaultdict(dict)
        """Node -> resource -> sum of the pods' requests."""
        self.pending: dict[tuple[str, str], float] = defaultdict(float)
        """(node, kind) -> expected shares that no sample shows yet."""
        self.replicas: dict[Owner, Counter[str]] = defaultdict(Counter)
        """Deployment -> node -> its pods there."""
        for pod in observed.placed:
            self.add(pod, pod.node)

    def add(self, pod: PlacedPod, node: str) -> None:
        """Counts a pod on a node: requests at once, its share until the samples show its work."""
        requested = self.requested[node]
        for name, value in pod.requests.items():
            requested[name] = requested.get(name, 0.0) + value
        # Pods of others are in the samples alone, as nobody knows their share. One that terminates still holds its
        # requests, but adds no load, and is no replica that others are to be spread from.
        if not pod.deployment or pod.terminating:
            return
        sample = self._observed.samples.get((node, pod.kind))
        # Without this every pod of a burst between two samples lands on the same node (method A4): at 4:2:1:1, 16 pods
        # on the fastest one, and half of the load served.
        if unseen := pod.unseen(sample):
            self.pending[node, pod.kind] += unseen * self.share(pod, node)
        self.replicas[pod.owner][node] += 1

    def share(self, pod: PlacedPod, node: str) -> float:
        """Expected share of the processor that this pod takes: target / forecast, else 1 / `maxServices`."""
        deployment = self._observed.deployments.get(pod.owner)
        target = None if deployment is None or isinstance(deployment, InvalidSpec) else deployment.target
        forecast = self.forecast(pod, node)
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
        ratio = self._observed.ratios.get(pod.owner)
        processor = self._observed.processor(node, pod.kind)
        return ratio * processor.capacity if ratio and processor and processor.capacity else None
