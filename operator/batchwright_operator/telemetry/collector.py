"""The collector (method A3): keeps the samples of `LiveState` current, from agents or Prometheus, and from sidecars.

Samples change all the time and are not worth a reconciliation each: placement is queued only when pods wait for it and
a sample has really moved, a profile only when its node's samples become fresh.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
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
from batchwright_operator.telemetry.ending_pods import benchmarked_until, ends, known
from batchwright_operator.telemetry.exporters import mean_sample
from batchwright_operator.telemetry.lasting import Windows
from batchwright_operator.telemetry.prometheus import PrometheusSource
from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.names import (
    ANNOTATION_KIND,
    COMPONENT_MODEL,
    KIND_EMULATED,
    LABEL_BENCHMARK,
    LABEL_COMPONENT,
)

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
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._settings, self._live, self._session_factory = settings, live, session_factory
        self._clock = live.now if clock is None else clock
        self._problem = ""
        self._windows = Windows(window_s=settings.placement_window_seconds, interval_s=settings.scrape_interval_seconds)
        live.share_of_pod = self._windows.mean_of_pod

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
        live = self._live
        newest, lasting = dict(live.newest), dict(live.samples)
        for place in [place for place in newest if place[0] not in nodes]:
            live.newest.pop(place)
            self._windows.forget(place[0])
        live.newest.update({place: sample for place, sample in samples.items() if place[0] in nodes})
        self._add_to_windows(samples, store, now)
        self._store_lasting(store, now)
        for node in {place[0] for place in samples if self._stale(newest.get(place), now)} & nodes:
            queue.add(Key(reconciler=PROFILES, name=node))
        if any(_moved(lasting.get(place), sample) for place, sample in live.samples.items()) and _waiting(store):
            queue.add(PLACEMENT)

    def _add_to_windows(self, samples: Mapping[tuple[str, str], Sample], store: StoreView, now: float) -> None:
        benchmarked = benchmarked_until(store.labelled(POD, LABEL_BENCHMARK, "true"), now)
        pods = _by_uid(store) if any(each.pods for each in samples.values()) else {}
        for place in samples.keys() & self._live.newest.keys():
            sample = samples[place]
            # An emulated device is told by the sidecars that use it, which no benchmark has.
            is_told = sample.pods is not None or place[1] == KIND_EMULATED
            if sample.pods is not None:
                sample = replace(sample, pods=known(sample.pods, pods))
            self._windows.add(place, sample, disturbed_until=None if is_told else benchmarked.get(place))

    def _store_lasting(self, store: StoreView, now: float) -> None:
        """What lasts is worked out anew also where no sample came: a pod may have ended since."""
        pods = _by_uid(store) if any(each.pods for each in self._live.newest.values()) else {}
        window_s = self._settings.placement_window_seconds
        ending = cache(lambda uid: ends(uid, pods, now, lasting_s=window_s))
        found = {place: self._windows.lasting(place, ending) for place in self._live.newest}
        self._live.samples = {place: each for place, each in found.items() if each is not None}

    def _stale(self, sample: Sample | None, now: float) -> bool:
        return sample is None or now - sample.taken_at > self._settings.sample_stale_seconds

    def _source(self, session: aiohttp.ClientSession) -> Source:
        if self._settings.prometheus_url:
            return PrometheusSource(self._settings, self._clock)
        return AgentSource(self._settings, session, clock=self._clock)

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
            found = mean_sample([*devices, *free], now)
            samples[name, KIND_EMULATED] = replace(found, pods=_by_holder(devices, len(found.devices)))
    return samples


def _by_holder(devices: Iterable[DeviceSample], count: int) -> dict[str, tuple[float, float]]:
    """Pod uid -> its part of the mean over `count` devices."""
    parts: dict[str, tuple[float, float]] = {}
    for each in devices:
        uid = each.id.rpartition("/")[0]
        busy, memory = parts.get(uid, (0.0, 0.0))
        parts[uid] = (busy + each.utilization / count, memory + each.memory_utilization / count)
    return parts


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


def _by_uid(store: StoreView) -> dict[str, Raw]:
    return {pod["metadata"]["uid"]: pod for pod in store.all(POD)}


def _waiting(store: StoreView) -> bool:
    """Whether any pod waits for a placement."""
    models = store.labelled(POD, LABEL_COMPONENT, COMPONENT_MODEL)
    return any((pod.get("spec") or {}).get("schedulingGates") for pod in models)
