"""The collector (method A3): keeps `LiveState.samples` current, from agents or Prometheus, and from sidecars.

Samples change all the time and are not worth a reconciliation each: placement is queued only when pods wait for it and
a sample has really moved, a profile only when its node's samples become fresh.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import aiohttp

from batchwright_operator.kube.conditions import holds
from batchwright_operator.kube.objects import NODE, POD, Raw
from batchwright_operator.kube.quantities import amount
from batchwright_operator.pods.state_follower import SessionFactory
from batchwright_operator.processors.processor import emulated_device
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.interfaces import Queue, StoreView
from batchwright_operator.reconcile.live_state import DeviceSample, LiveState, Received, Sample
from batchwright_operator.settings import Settings
from batchwright_operator.telemetry.agents import AgentSource
from batchwright_operator.telemetry.exporters import mean_sample
from batchwright_operator.telemetry.prometheus import PrometheusSource
from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import ANNOTATION_KIND, COMPONENT_MODEL, KIND_EMULATED, LABEL_COMPONENT

log = logging.getLogger(__name__)

MOVED: Final = 0.05
"""A share that moved by this much may change where a pod goes."""
SILENT_SIDECAR_S: Final = 60.0
"""A sidecar responds to its long-poll every 25 s at least; after two missed ones its device's state is unknown."""
PLACEMENT: Final = Key(reconciler="placement")
PROFILES: Final = "profiles"


class Source(Protocol):
    """A source of samples."""

    async def read(self, store: StoreView) -> dict[tuple[str, str], Sample]:
        """(node, kind) -> newest sample of everything that responds. Raises when nothing can be known."""


class TelemetryBackground:
    """The collector as a `Background` of `reconcile/interfaces`."""

    def __init__(
        self,
        settings: Settings,
        live: LiveState,
        session_factory: SessionFactory,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._live, self._session_factory, self._clock = settings, live, session_factory, clock
        self._problem = ""

    async def run(self, store: StoreView, queue: Queue) -> None:
        """Reads every scrape interval until cancelled."""
        async with self._session_factory() as session:
            source = self._source(session)
            while True:
                started = time.monotonic()
                await self.refresh(source, store, queue)
                spent = time.monotonic() - started
                await asyncio.sleep(max(0.1, self._settings.scrape_interval_seconds - spent))

    async def refresh(self, source: Source, store: StoreView, queue: Queue) -> None:
        """One round. A source that fails is logged once and leaves the old samples, which become stale in time."""
        try:
            samples = await source.read(store)
            self._report("")
        except Exception as error:
            self._report(f"{type(error).__name__}: {error}")
            samples = {}
        now = self._clock()
        nodes = store.all(NODE)
        samples.update(emulated_samples(nodes, store.labelled(POD, LABEL_COMPONENT, COMPONENT_MODEL),
                                        self._live.sidecars, now))  # fmt: skip
        self._store_samples(samples, {node["metadata"]["name"] for node in nodes}, store, queue, now)

    def _store_samples(
        self, samples: Mapping[tuple[str, str], Sample], nodes: set[str], store: StoreView, queue: Queue, now: float
    ) -> None:
        before = dict(self._live.samples)
        for place in [place for place in before if place[0] not in nodes]:
            del self._live.samples[place]
        self._live.samples.update({place: sample for place, sample in samples.items() if place[0] in nodes})
        for node in {place[0] for place in samples if self._stale(before.get(place), now)} & nodes:
            queue.add(Key(reconciler=PROFILES, name=node))
        if any(_moved(before.get(place), sample) for place, sample in samples.items()) and _waiting(store):
            queue.add(PLACEMENT)

    def _stale(self, sample: Sample | None, now: float) -> bool:
        return sample is None or now - sample.taken_at > self._settings.sample_stale_seconds

    def _source(self, session: aiohttp.ClientSession) -> Source:
        if self._settings.prometheus_url:
            return PrometheusSource(self._settings)
        return AgentSource(self._settings, session)

    def _report(self, problem: str) -> None:
        if problem and not self._problem:
            log.warning("no samples: %s", problem)
        elif self._problem and not problem:
            log.info("samples are back")
        self._problem = problem


def emulated_samples(
    nodes: Iterable[Raw], pods: Iterable[Raw], sidecars: Mapping[str, Received[SidecarState]], now: float
) -> dict[tuple[str, str], Sample]:
    """Samples of the emulated accelerators, which have no driver: what the sidecars that use their devices report; a
    free device is idle.

    A ready pod whose sidecar has been silent leaves its node without a sample.
    """
    holders: dict[str, list[Raw]] = {}
    for pod in pods:
        node = (pod.get("spec") or {}).get("nodeName")
        if node and (pod["metadata"].get("annotations") or {}).get(ANNOTATION_KIND) == KIND_EMULATED:
            holders.setdefault(node, []).append(pod)
    samples = {}
    for node in nodes:
        device = emulated_device(node)
        if device is None:
            continue
        name = node["metadata"]["name"]
        devices = _devices_in_use(holders.get(name, ()), sidecars, now)
        if devices is not None:
            count = int(amount(node["status"]["allocatable"][KIND_EMULATED]))
            free = [DeviceSample(id=f"free-{i}", utilization=0.0, memory_utilization=0.0)
                    for i in range(count - len(devices))]  # fmt: skip
            samples[name, KIND_EMULATED] = mean_sample([*devices, *free], now)
    return samples


def _devices_in_use(
    pods: Iterable[Raw], sidecars: Mapping[str, Received[SidecarState]], now: float
) -> list[DeviceSample] | None:
    """The devices in use; None when a ready pod reports nothing. A pod that is not ready serves nobody yet."""
    devices = []
    for pod in pods:
        uid = pod["metadata"]["uid"]
        received = sidecars.get(uid)
        if received is not None and now - received.received_at <= SILENT_SIDECAR_S:
            devices += [
                DeviceSample(
                    id=f"{uid}/{each.device}",
                    utilization=min(1.0, max(0.0, each.busy_ratio)),
                    memory_utilization=min(1.0, each.memory_used_bytes / max(1, each.memory_bytes)),
                )
                for each in received.state.devices
            ]
        elif holds((pod.get("status") or {}).get("conditions"), "Ready"):
            return None
    return devices


def _moved(before: Sample | None, after: Sample) -> bool:
    return (
        before is None
        or abs(before.utilization - after.utilization) >= MOVED
        or abs(before.memory_utilization - after.memory_utilization) >= MOVED
    )


def _waiting(store: StoreView) -> bool:
    """Whether any pod waits for a placement."""
    models = store.labelled(POD, LABEL_COMPONENT, COMPONENT_MODEL)
    return any((pod.get("spec") or {}).get("schedulingGates") for pod in models)
