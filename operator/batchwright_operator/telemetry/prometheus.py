"""Samples from a Prometheus server: GPU and NPU exporters by their raw series, CPUs by node exporter.

All ages are differences of two times of that server, so that a server whose clock is wrong still gives true ages.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from prometheus_api_client import PrometheusConnect
from urllib3.util.retry import Retry

from batchwright_operator.kube.objects import NODE, Raw
from batchwright_operator.processors.processor import kinds_on
from batchwright_operator.reconcile.interfaces import StoreView
from batchwright_operator.reconcile.live_state import Sample
from batchwright_operator.settings import Settings
from batchwright_operator.telemetry import exporters
from batchwright_operator.telemetry.exporters import METRICS, Series, is_measured, node_of, samples_of
from batchwright_worker.api.names import KIND_CPU

log = logging.getLogger(__name__)

WINDOW: Final = "2m"
"""How far back a series' newest value may be: older ones are stale anyway (`Settings.sample_stale_seconds`)."""
_RAW: Final = f'{{__name__=~"{"|".join(sorted(METRICS))}"}}[{WINDOW}]'
_IDLE: Final = 'node_cpu_seconds_total{mode="idle"}'
CPU_RATE_S: Final = 60.0
_CPU: Final = f"1 - avg without (cpu, mode) (rate({_IDLE}[{CPU_RATE_S:.0f}s]))"
_CPU_AGE: Final = f"time() - max without (cpu, mode) (timestamp({_IDLE}))"
_MEMORY: Final = "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes"


class PrometheusUnavailable(Exception):  # noqa: N818 - a fact about a server
    """A server that is down, slow, or responds with nonsense; the message says which."""


class PrometheusSource:
    """Prometheus as a `Source` of `telemetry/collector`. The client is synchronous: it runs in one thread, never twice
    at a time."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._timeout_s = settings.prometheus_timeout_seconds
        self._url, self._clock = settings.prometheus_url, clock
        self._client = PrometheusConnect(
            url=settings.prometheus_url, retry=Retry(total=0), timeout=max(1, round(self._timeout_s))
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prometheus")
        self._pending: Future[dict[tuple[str, str], Sample]] | None = None

    async def read(self, store: StoreView) -> dict[tuple[str, str], Sample]:
        """The samples of all nodes that the server knows. Raises PrometheusUnavailable."""
        nodes = store.all(NODE)
        names = _names(nodes)
        kinds = {node["metadata"]["name"]: kinds_on(node) for node in nodes}
        if self._pending is not None and not self._pending.done():
            raise PrometheusUnavailable(f"{self._url} still has not responded to the last query")
        self._pending = self._thread.submit(self._query_all, names, kinds)
        try:
            # The thread cannot be cancelled: the shield leaves its queries running, and the check above waits for them.
            async with asyncio.timeout(self._timeout_s * 2):
                return await asyncio.shield(asyncio.wrap_future(self._pending))
        except TimeoutError as error:
            raise PrometheusUnavailable(f"{self._url} is slow: no response in {self._timeout_s * 2:g} s") from error

    def _query_all(
        self, names: Mapping[str, str], kinds: Mapping[str, tuple[str, ...]]
    ) -> dict[tuple[str, str], Sample]:
        try:
            server_now = float(self._query("time()")[1])
            series = [found for each in self._query(_RAW) if (found := _newest(each, server_now)) is not None]
            cpu = (self._query(_CPU), self._query(_MEMORY), self._query(_CPU_AGE))
        except PrometheusUnavailable:
            raise
        except Exception as error:  # the client raises requests' errors, its own, KeyError and ValueError
            raise PrometheusUnavailable(f"{self._url}: {error}") from error
        now = self._clock()
        samples = samples_of(series, names, kinds, now)
        samples.update(_cpus(cpu, names, now))
        return samples

    def _query(self, query: str) -> Any:
        return self._client.custom_query(query, timeout=self._timeout_s)


def _names(nodes: list[Raw]) -> dict[str, str]:
    """Node names and addresses -> node name."""
    names: dict[str, str] = {}
    for node in nodes:
        name = node["metadata"]["name"]
        for address in (node.get("status") or {}).get("addresses") or ():
            names.setdefault(address["address"], name)
    return names | {node["metadata"]["name"]: node["metadata"]["name"] for node in nodes}


def _newest(result: Mapping[str, Any], server_now: float) -> Series | None:
    """The newest value of a series; None if it comes from the future (somebody's clock lies) or is a sentinel."""
    labels = result["metric"]
    at, text = result["values"][-1]
    age_s = server_now - float(at)
    value = float(text)
    if age_s < -1.0 or not is_measured(value):
        return None
    return Series(name=labels["__name__"], labels=labels, value=value, age_s=max(0.0, age_s))


def _cpus(
    results: tuple[list[Any], list[Any], list[Any]], names: Mapping[str, str], now: float
) -> dict[tuple[str, str], Sample]:
    """CPU samples of nodes that have all three: busy share, memory, age."""
    busy, memory, age = (_by_node(result, names) for result in results)
    samples = {}
    for node in busy.keys() & memory.keys() & age.keys():
        shares = [exporters.share(max(0.0, value), 1.0) for value in (busy[node], memory[node])]
        if shares[0] is not None and shares[1] is not None and age[node] > -1.0:
            taken_at = now - max(0.0, age[node])
            samples[node, KIND_CPU] = Sample(
                utilization=shares[0], memory_utilization=shares[1], taken_at=taken_at, seconds=CPU_RATE_S
            )
    return samples


def _by_node(result: list[Any], names: Mapping[str, str]) -> dict[str, float]:
    found = {node_of(each["metric"], names): float(each["value"][1]) for each in result}
    return {node: value for node, value in found.items() if node is not None}
