"""The counters of the node's cache of weights, which whoever fetches keeps in a file of the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from batchwright_worker.fetch.cache.counters import Counters, read_counters

_TOTALS: Final[dict[str, tuple[str, Callable[[Counters], int]]]] = {
    "hits": ("Artifacts that were there", lambda c: c.hits),
    "hit_bytes": ("Bytes that were not fetched for it", lambda c: c.hit_bytes),
    "fetches": ("Artifacts that were fetched into it", lambda c: c.fetches),
    "fetched_bytes": ("Bytes of these", lambda c: c.fetched_bytes),
    "uncached": ("Artifacts that were fetched past it", lambda c: c.uncached),
    "damaged": ("Entries that were fetched anew", lambda c: c.damaged),
    "evictions": ("Entries that went for others", lambda c: c.evictions),
    "evicted_bytes": ("Bytes of these", lambda c: c.evicted_bytes),
}
_NOW: Final[dict[str, tuple[str, Callable[[Counters], int]]]] = {
    "entries": ("Artifacts in it", lambda c: c.entries),
    "bytes": ("Bytes of these", lambda c: c.bytes),
    "limit_bytes": ("Bytes that it may hold", lambda c: c.max_bytes),
}


class CacheCollector(Collector):
    """All pods of a node and namespace show the same numbers: they are those of the cache they share."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def collect(self) -> Iterable[Metric]:
        """Called for each scrape."""
        counters, name = read_counters(self._root), "batchwright_weights_cache_{}".format
        for part, (text, value) in _TOTALS.items():
            yield CounterMetricFamily(name(part), f"Cache of weights: {text}", value(counters))
        for part, (text, value) in _NOW.items():
            yield GaugeMetricFamily(name(part), f"Cache of weights: {text}", value(counters))
