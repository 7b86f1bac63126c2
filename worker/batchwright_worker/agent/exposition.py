"""Readings as Prometheus text; docs/design/0001 has the table of metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from batchwright_worker.agent.readings import ReadingSource

_LABELS = ("node", "kind", "device")
_BY_POD = "by one pod, by its uid; without one: by the pods that have ended since the last scrape."


class ReadingCollector(Collector):
    """Reads all sources when it is scraped."""

    def __init__(self, node: str, sources: Sequence[ReadingSource]) -> None:
        self._node, self._sources = node, sources

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The six families; what a device does not tell is absent, never zero."""
        readings = [reading for source in self._sources for reading in source.read()]
        busy = _family("utilization_ratio", "Busy share of the processor, of what pods may use of it.")
        memory = _family("memory_utilization_ratio", "Used memory over all of it.")
        taken = _family("sample_timestamp_seconds", "When the device was read.")
        info = GaugeMetricFamily(
            "batchwright_device_info", "A device of this node.", labels=[*_LABELS, "product", "driver", "memory_bytes"]
        )
        pod_busy = _family("pod_utilization_ratio", f"Busy share {_BY_POD}", pod=True)
        pod_memory = _family("pod_memory_utilization_ratio", f"Memory in use {_BY_POD}", pod=True)
        for each in readings:
            labels = [self._node, each.kind, each.device]
            _add(busy, labels, each.utilization)
            _add(memory, labels, each.memory_utilization)
            _add(taken, labels, each.taken_at)
            info.add_metric([*labels, each.product, each.driver, str(each.memory_bytes)], 1)
            for uid, used in (each.pods or {}).items():
                pod_busy.add_metric([*labels, uid], used.utilization)
                pod_memory.add_metric([*labels, uid], used.memory_utilization)
        yield from (busy, memory, taken, info, pod_busy, pod_memory)


def exposition(node: str, sources: Sequence[ReadingSource]) -> CollectorRegistry:
    """A registry whose every scrape reads the sources."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ReadingCollector(node, sources))
    return registry


def text(registry: CollectorRegistry) -> bytes:
    """The answer to a scrape."""
    return generate_latest(registry)


def _family(name: str, help_text: str, *, pod: bool = False) -> GaugeMetricFamily:
    labels = [*_LABELS, "pod"] if pod else _LABELS
    return GaugeMetricFamily(f"batchwright_processor_{name}", help_text, labels=labels)


def _add(family: GaugeMetricFamily, labels: list[str], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, value)
