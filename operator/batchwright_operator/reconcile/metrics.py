"""The operator's own metrics, and gauges that reconcilers decide (`Decision.metrics`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.live_state import LiveState

_NAME: Final = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?$")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')

_SILENCES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_AGES: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Metrics:
    """One registry per process."""

    def __init__(self, live: LiveState) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library has no types for it
        self.registry = CollectorRegistry()
        # The label `domain` is the reconciler's name. It is public: dashboards and alerts of users select by it.
        self.passes = Counter(
            "batchwright_reconcile", "Passes over a key", ["domain", "result"], registry=self.registry
        )
        self.pass_seconds = Histogram(
            "batchwright_reconcile_seconds", "Time of one pass", ["domain"], registry=self.registry
        )
        self.writes = Counter(
            "batchwright_api_writes",
            "Writes to the API server that succeeded",
            ["verb", "kind"],
            registry=self.registry,
        )
        self.leader = Gauge("batchwright_leader", "1 while this replica leads", registry=self.registry)
        self.queue_depth = Gauge("batchwright_queue_depth", "Keys that are ready", registry=self.registry)
        self.watch_restarts = Counter(
            "batchwright_own_watch_restarts",
            "Restarts of the watches of the product's own kinds",
            registry=self.registry,
        )
        self.lost_leads = Counter(
            "batchwright_leadership_lost", "How often this replica stopped leading", registry=self.registry
        )
        self.api_calls = Counter(
            "batchwright_api_calls",
            "Calls to the API server that were answered (code 0: that were not), the Lease included",
            ["verb", "code"],
            registry=self.registry,
        )
        self.loop_silence = Histogram(
            "batchwright_event_loop_silence_seconds",
            "How long nothing but one thing ran",
            buckets=_SILENCES,
            registry=self.registry,
        )
        self.longest_silence = Gauge(
            "batchwright_event_loop_longest_silence_seconds",
            "The longest silence since this replica began to lead",
            registry=self.registry,
        )
        self.most_cpu = Gauge(
            "batchwright_event_loop_most_cpu_seconds",
            "The most CPU that the event loop used between two looks since this replica began to lead",
            registry=self.registry,
        )
        self._histograms = {
            "batchwright_placement_gate_age_seconds": Histogram(
                "batchwright_placement_gate_age_seconds",
                "From the creation of a pod to the decision where it goes",
                buckets=_AGES,
                registry=self.registry,
            ),
            "batchwright_placement_latency_seconds": Histogram(
                "batchwright_placement_latency_seconds",
                "From the first sight of a pod without a place to the decision where it goes",
                buckets=_AGES,
                registry=self.registry,
            ),
        }
        self._counters = {
            "batchwright_benchmarks_total": Counter(
                "batchwright_benchmarks", "Benchmarks that ended", ["kind", "outcome"], registry=self.registry
            )
        }
        self._decided: dict[Key, Mapping[str, float]] = {}
        self.registry.register(_Decided(self._decided))
        self.registry.register(_Samples(live))

    def decided(self, key: Key, values: Mapping[str, float]) -> None:
        """Replaces the gauges of this key's last decision."""
        if values:
            self._decided[key] = values
        else:
            self._decided.pop(key, None)

    def observed(self, values: Mapping[str, Iterable[float]]) -> None:
        """Counts values of a decision in the histograms of these names."""
        for name, seen in values.items():
            for value in seen:
                self._histograms[name].observe(value)

    def counted(self, counts: Mapping[str, int]) -> None:
        """Adds to the counters of these names and labels."""
        for text, number in counts.items():
            name, labels = parse_name(text)
            self._counters[name].labels(**labels).inc(number)

    def called(self, verb: str, code: int) -> None:
        """A call to the API server ended."""
        self.api_calls.labels(verb, str(code)).inc()

    def show_store(self, sizes: Callable[[], Mapping[str, int]]) -> None:
        """Shows how many objects of each resource the cache holds."""
        self.registry.register(_Store(sizes))


class _Decided(Collector):
    """Gauges out of `name` or `name{label="value"}`."""

    def __init__(self, decided: Mapping[Key, Mapping[str, float]]) -> None:
        self._decided = decided

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        families: dict[tuple[str, tuple[str, ...]], GaugeMetricFamily] = {}
        for values in list(self._decided.values()):
            for text, value in values.items():
                name, labels = parse_name(text)
                at = (name, tuple(labels))
                if at not in families:
                    families[at] = GaugeMetricFamily(name, "Decided by a reconciler", labels=list(labels))
                families[at].add_metric(list(labels.values()), value)
        yield from families.values()


class _Store(Collector):
    """Sizes of the cache."""

    def __init__(self, sizes: Callable[[], Mapping[str, int]]) -> None:
        self._sizes = sizes

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("batchwright_cache_objects", "Objects in the cache", labels=["resource"])
        for resource, size in self._sizes().items():
            family.add_metric([resource], size)
        yield family


class _Samples(Collector):
    """Method A3: the samples that pods are placed by."""

    def __init__(self, live: LiveState) -> None:
        self._live = live

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        labels = ["node", "kind"]
        busy = GaugeMetricFamily("batchwright_processor_utilization_ratio", "Busy share that lasts", labels=labels)
        memory = GaugeMetricFamily("batchwright_processor_memory_utilization_ratio", "Memory in use", labels=labels)
        taken = GaugeMetricFamily("batchwright_processor_sample_timestamp_seconds", "When it was read", labels=labels)
        for (node, kind), sample in list(self._live.samples.items()):
            busy.add_metric([node, kind], sample.utilization)
            memory.add_metric([node, kind], sample.memory_utilization)
            taken.add_metric([node, kind], sample.taken_at)
        yield from (busy, memory, taken)


def parse_name(text: str) -> tuple[str, dict[str, str]]:
    """`name{a="x",b="y"}` as name and labels. Raises ValueError."""
    found = _NAME.match(text)
    if not found:
        raise ValueError(f'{text!r} is no name of a metric; write name or name{{label="value"}}')
    labels = {name: re.sub(r"\\(.)", r"\1", value) for name, value in _LABEL.findall(found.group(2) or "")}
    return found.group(1), labels
