"""Samples from the node agents: the /metrics of every agent, all at the same time, each with a time-out."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from batchwright_operator.kube.objects import NODE, POD, Raw
from batchwright_operator.processors.processor import kinds_on
from batchwright_operator.reconcile.interfaces import StoreView
from batchwright_operator.reconcile.live_state import DeviceSample, Sample
from batchwright_operator.settings import Settings
from batchwright_operator.telemetry.exporters import is_measured, mean_sample
from batchwright_worker.api.accelerators import offered_as
from batchwright_worker.api.names import AGENT_PORT, COMPONENT_AGENT, LABEL_COMPONENT

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 3.0
AT_ONCE: Final = 64
RESPONSE_LIMIT_BYTES: Final = 4 << 20
_PREFIX: Final = "batchwright_processor_"
_BUSY, _MEMORY, _TAKEN, _POD_BUSY, _POD_MEMORY = (f"{_PREFIX}{name}" for name in (
    "utilization_ratio", "memory_utilization_ratio", "sample_timestamp_seconds", "pod_utilization_ratio",
    "pod_memory_utilization_ratio"))  # fmt: skip


class AgentSource:
    """The agents as a `Source` of `telemetry/collector`. One that does not respond is left out and logged once."""

    def __init__(
        self, settings: Settings, session: aiohttp.ClientSession, port: int = AGENT_PORT,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._settings, self._session, self._port, self._clock = settings, session, port, clock
        self._limit = asyncio.Semaphore(AT_ONCE)
        self._unreachable: set[str] = set()

    async def read(self, store: StoreView) -> dict[tuple[str, str], Sample]:
        """The samples of all agents that respond."""
        pods = store.labelled(POD, LABEL_COMPONENT, COMPONENT_AGENT, namespace=self._settings.agent_namespace)
        agents = {_node(pod): str(pod["status"]["podIP"]) for pod in pods if _is_reachable(pod)}
        found = await asyncio.gather(*(self._scrape(node, address) for node, address in agents.items()))
        samples: dict[tuple[str, str], Sample] = {}
        for node, got in zip(agents, found, strict=True):
            raw = store.get(NODE, "", node)
            samples.update({(node, kind): each for kind, each in _of_node(got, raw).items()})
        self._unreachable &= agents.keys()
        return samples

    async def _scrape(self, node: str, address: str) -> dict[str, Sample]:
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._limit, asyncio.timeout(TIMEOUT_S):
                text, date = await self._get(f"http://{host}:{self._port}/metrics")
            samples = parse(text, date, self._clock())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if node not in self._unreachable:
                log.warning("agent of %s at %s does not respond: %s", node, address, error or type(error).__name__)
            self._unreachable.add(node)
            return {}
        self._unreachable.discard(node)
        return samples

    async def _get(self, url: str) -> tuple[str, str]:
        """Body and Date header."""
        async with self._session.get(url) as response:
            response.raise_for_status()
            body = b""
            async for chunk in response.content.iter_chunked(1 << 16):
                body += chunk
                if len(body) > RESPONSE_LIMIT_BYTES:
                    raise ValueError(f"its response is longer than {RESPONSE_LIMIT_BYTES} bytes")
            return body.decode(), response.headers.get("Date", "")


def parse(text: str, date: str, now: float) -> dict[str, Sample]:
    """Kind -> sample of one scrape. A sample's age is by the agent's own clock: `date` is its Date header, so that an
    agent whose clock is wrong is not taken for stale (or for fresh). ValueError for text that is no exposition."""
    values: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    pods: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for family in text_string_to_metric_families(text):
        if family.name in {_POD_BUSY, _POD_MEMORY}:
            for each in family.samples:
                # Interned: the same uid comes again with every sample, and a window holds them all.
                pods[each.labels.get("kind", "")][sys.intern(each.labels.get("pod", ""))][family.name] = each.value
        elif family.name.startswith(_PREFIX):
            for each in family.samples:
                values[each.labels.get("kind", ""), each.labels.get("device", "")][family.name] = each.value
    there = _unix(date)
    kinds: dict[str, list[tuple[DeviceSample, float]]] = defaultdict(list)
    for (kind, device), found in values.items():
        busy, memory, taken = (found.get(name) for name in (_BUSY, _MEMORY, _TAKEN))
        if busy is None or memory is None or not (is_measured(busy) and is_measured(memory)):
            continue
        age_s = max(0.0, (there if there is not None else now) - (taken if taken is not None else now))
        sample = DeviceSample(id=device, utilization=min(1.0, busy), memory_utilization=min(1.0, memory))
        kinds[kind].append((sample, now - age_s))
    means = {kind: mean_sample([each for each, _ in got], min(at for _, at in got)) for kind, got in kinds.items()}
    return {kind: replace(each, pods=_pods(pods[kind])) if kind in pods else each for kind, each in means.items()}


def _pods(found: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    shares = {uid: (values.get(_POD_BUSY, 0.0), values.get(_POD_MEMORY, 0.0)) for uid, values in found.items()}
    return {uid: each for uid, each in shares.items() if all(is_measured(value) for value in each)}


def _of_node(samples: Mapping[str, Sample], node: Raw | None) -> dict[str, Sample]:
    """The samples by the kinds that the node offers: with MIG strategy `single` partitions count as whole devices, and
    shared devices may have a name of their own."""
    offered = kinds_on(node) if node else ()
    merged: dict[str, list[Sample]] = defaultdict(list)
    for kind, sample in samples.items():
        merged[offered_as(kind, offered) or kind].append(sample)
    return {kind: found[0] if len(found) == 1 else _together(found) for kind, found in merged.items()}


def _together(samples: Sequence[Sample]) -> Sample:
    devices = [device for each in samples for device in each.devices]
    return mean_sample(devices, min(each.taken_at for each in samples))


def _is_reachable(pod: Raw) -> bool:
    status = pod.get("status") or {}
    return bool(status.get("podIP")) and status.get("phase") == "Running" and bool(_node(pod))


def _node(pod: Raw) -> str:
    return str((pod.get("spec") or {}).get("nodeName") or "")


def _unix(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None
