"""Prometheus metrics: Triton's names next to own ones, read from the engine's counters when they are scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from batchwright_worker.api.messages import LATENCY_BOUNDS_MS, ModelState, SidecarState, TuningState
from batchwright_worker.engine.counters import ModelCounters
from batchwright_worker.protocol.cache_metrics import CacheCollector
from batchwright_worker.protocol.request_memory import RequestMemory

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

_TRITON: Final[dict[str, tuple[str, Callable[[ModelCounters], float]]]] = {
    "nv_inference_request_success": ("Requests answered with a result", lambda m: m.success.count),
    "nv_inference_count": ("Rows answered with a result", lambda m: m.rows),
    "nv_inference_exec_count": ("Batches run", lambda m: m.executions.count),
    "nv_inference_request_duration_us": ("Time from arrival to result", lambda m: m.success.ns // 1000),
    "nv_inference_queue_duration_us": ("Time that requests waited", lambda m: m.queue.ns // 1000),
    "nv_inference_compute_input_duration_us": (
        "Time of inputs' way to the model",
        lambda m: m.compute_input.ns // 1000,
    ),
    "nv_inference_compute_infer_duration_us": ("Time that requests spent in batches", lambda m: m.compute.ns // 1000),
    "nv_inference_compute_output_duration_us": (
        "Time of the way from the model",
        lambda m: m.compute_output.ns // 1000,
    ),
}
_FAILURES: Final[dict[str, Callable[[ModelCounters], int]]] = {
    "REJECTED": lambda m: m.refused_total,
    "CANCELED": lambda m: m.cancelled,
    "BACKEND": lambda m: m.failed,
    "OTHER": lambda m: m.fail.count - m.refused_total - m.failed,
}
"""Triton's reasons of nv_inference_request_failure."""
_OWN: Final[dict[str, tuple[str, Callable[[ModelCounters], float]]]] = {
    "batchwright_device_seconds": ("Device time of batches", lambda m: m.executions.ns / 1e9),
    "batchwright_predicted_device_seconds": ("The same as the fit predicted it", lambda m: m.predicted_ns / 1e9),
    "batchwright_failed_rows": ("Rows answered with an error", lambda m: m.failed_rows),
    "batchwright_cancelled_requests": ("Requests whose client had disconnected", lambda m: m.cancelled),
    "batchwright_retried_batches": ("Batches run again after their runtime was lost", lambda m: m.retried),
    "batchwright_overdue": ("Batches, loads and unloads that took half of their time limit", lambda m: m.overdue),
    "batchwright_hung": ("Those that took all of it, so that their runtime was ended", lambda m: m.hung),
    "batchwright_model_loads": ("Loads onto a device", lambda m: m.loads.count),
    "batchwright_model_load_seconds": ("Time of these loads", lambda m: m.loads.ns / 1e9),
    "batchwright_model_unloads": ("Unloads from a device", lambda m: m.unloads),
}
_LABELS: Final = ("model", "version")


class SidecarCollector(Collector):
    """What goes by own names: `measures` by model, the state for what is not a counter, the `memory` of requests."""

    def __init__(
        self, measures: Mapping[str, ModelCounters], state: Callable[[], SidecarState], memory: RequestMemory
    ) -> None:
        self._measures = measures
        self._state = state
        self._memory = memory

    def collect(self) -> Iterable[Metric]:
        """Called for each scrape."""
        yield from self._own()
        yield from self._by_reason()
        yield self._latencies()
        yield from self._gauges()
        yield from self._request_memory()

    def _own(self) -> Iterator[Metric]:
        for name, (text, value) in _OWN.items():
            family = CounterMetricFamily(name, text, labels=_LABELS)
            for model, measures in self._measures.items():
                family.add_metric([model, measures.version], value(measures))
            yield family

    def _by_reason(self) -> Iterator[Metric]:
        dispatched = CounterMetricFamily(
            "batchwright_dispatch", "Batches and loads by reason", labels=[*_LABELS, "reason"]
        )
        refused = CounterMetricFamily("batchwright_refused", "Requests refused by reason", labels=[*_LABELS, "reason"])
        batches = CounterMetricFamily("batchwright_batches", "Batches by their size", labels=[*_LABELS, "size"])
        for model, measures in self._measures.items():
            for reason, count in sorted(measures.dispatched.items()):
                dispatched.add_metric([model, measures.version, reason], count)
            for reason, count in sorted(measures.refused.items()):
                refused.add_metric([model, measures.version, reason], count)
            for size, tally in sorted(measures.batches.items()):
                batches.add_metric([model, measures.version, str(size)], tally.compute.count)
        decided = CounterMetricFamily(
            "batchwright_batch_size_decisions",
            "Windows by the rule that decided on the batch size, and its reason",
            labels=[*_LABELS, "rule", "reason"],
        )
        for model, measures in self._measures.items():
            for (rule, reason), count in sorted(measures.decided.items()):
                decided.add_metric([model, measures.version, rule, reason], count)
        yield from (dispatched, refused, batches, decided)

    def _latencies(self) -> Metric:
        family = HistogramMetricFamily("batchwright_latency_seconds", "Latency of answered requests", labels=_LABELS)
        for model, measures in self._measures.items():
            total, buckets = 0, []
            for bound, count in zip((*LATENCY_BOUNDS_MS, None), measures.latency_counts, strict=True):
                total += count
                buckets.append(("+Inf" if bound is None else f"{bound / 1000:g}", total))
            family.add_metric([model, measures.version], buckets, measures.success.ns / 1e9)
        return family

    def _request_memory(self) -> Iterator[Metric]:
        memory = self._memory
        yield GaugeMetricFamily("batchwright_request_memory_bytes", "Held by requests", memory.held_bytes)
        yield GaugeMetricFamily("batchwright_request_memory_limit_bytes", "What they may hold", memory.limit_bytes)
        yield CounterMetricFamily("batchwright_request_memory_refused", "Requests that did not fit", memory.refused)

    def _gauges(self) -> Iterator[Metric]:
        state = self._state()
        size = GaugeMetricFamily("batchwright_batch_size", "The tuned batch size", labels=_LABELS)
        queue = GaugeMetricFamily("batchwright_queue_length", "Rows that wait", labels=_LABELS)
        for model in state.models:
            size.add_metric([model.name, self._measures[model.name].version], model.batch_size)
            queue.add_metric([model.name, self._measures[model.name].version], model.queue_length)
        labels = ("kind", "device")
        busy = GaugeMetricFamily("batchwright_device_busy_ratio", "Busy share of the last window", labels=labels)
        used = GaugeMetricFamily("batchwright_device_memory_used_bytes", "Memory of models and batches", labels=labels)
        for device in state.devices:
            busy.add_metric([device.kind, device.device], device.busy_ratio)
            used.add_metric([device.kind, device.device], device.memory_used_bytes)
        yield from (size, queue, busy, used)
        yield from _tuning(state, self._measures)
        yield from _engines(state)


_TUNING: Final[dict[str, tuple[str, Callable[[ModelState, TuningState], float | None]]]] = {
    "batchwright_batch_size_proposed": ("The size that the last window wanted", lambda _, t: t.proposed_size),
    "batchwright_batch_size_searching": ("1 while a better size is looked for", lambda m, _: m.searching),
    "batchwright_batch_size_trend_z": ("Z of the Mann-Kendall test of the last proposals", lambda m, _: m.trend_z),
    "batchwright_batch_rows_limit": ("Most rows of a batch now", lambda _, t: t.bounds.cap),
    "batchwright_latency_p95_seconds": ("p95 of the last window", lambda _, t: t.p95_milliseconds / 1e3),
    "batchwright_latency_target_seconds": (
        "Latency target",
        lambda _, t: None if t.target_milliseconds is None else t.target_milliseconds / 1e3,
    ),
    "batchwright_latency_target_met": ("1 if the last window met it, else 0", lambda m, _: m.latency_target_met),
    "batchwright_throughput_target": ("Rows per second that are asked for", lambda _, t: t.target_throughput),
    "batchwright_throughput_published": ("Batch size / p95 (method A8)", lambda _, t: t.published_throughput),
    "batchwright_throughput_possible": (
        "Rows per second that full batches of the tuned size would serve",
        lambda _, t: t.possible_throughput,
    ),
    "batchwright_fit_fixed_seconds": (
        "Fitted time of a batch whatever its size, the way to the runtime and back included",
        lambda _, t: None if t.fit is None else t.fit.fixed_milliseconds / 1e3,
    ),
    "batchwright_fit_row_seconds": (
        "Fitted time that each row adds",
        lambda _, t: None if t.fit is None else t.fit.per_row_milliseconds / 1e3,
    ),
    "batchwright_fit_knee": (
        "Rows of a batch from which on more is no faster",
        lambda _, t: None if t.fit is None else t.fit.knee,
    ),
}


def _tuning(state: SidecarState, measures: Mapping[str, ModelCounters]) -> Iterator[Metric]:
    """How batch sizes are decided; what is not known of a model has no sample."""
    told = [(model, model.tuning) for model in state.models if model.tuning is not None]
    for name, (text, value) in _TUNING.items():
        family = GaugeMetricFamily(name, text, labels=_LABELS)
        for model, tuning in told:
            if (number := value(model, tuning)) is not None:
                family.add_metric([model.name, measures[model.name].version], float(number))
        yield family
    bound = GaugeMetricFamily("batchwright_batch_bound", "1 for what bounds a batch now", labels=[*_LABELS, "by"])
    for model, tuning in told:
        bound.add_metric([model.name, measures[model.name].version, tuning.bounds.bound_by], 1)
    yield bound


def _engines(state: SidecarState) -> Iterator[Metric]:
    """Of devices that serve layer by layer."""
    streaming = [(each.kind, each.device, each.streams) for each in state.devices if each.streams is not None]
    if not streaming:
        return
    labels = ("kind", "device", "engine")
    busy = CounterMetricFamily("batchwright_engine_busy_seconds", "Time that an engine worked", labels=labels)
    idle = CounterMetricFamily(
        "batchwright_engine_idle_seconds",
        "Time that an engine waited although a batch was there: compute for weights, memory for room",
        labels=labels,
    )
    fetched = CounterMetricFamily("batchwright_weights_fetched_bytes", "Weights brought in", labels=labels[:2])
    decided = CounterMetricFamily("batchwright_decision_seconds", "Time spent deciding what is next", labels=labels[:2])
    peak = GaugeMetricFamily("batchwright_weights_peak_bytes", "Most weights in flight at once", labels=labels[:2])
    capacity = GaugeMetricFamily("batchwright_weights_capacity_bytes", "Memory for them", labels=labels[:2])
    for kind, device, streams in streaming:
        busy.add_metric([kind, device, "compute"], streams.compute_busy_seconds)
        busy.add_metric([kind, device, "memory"], streams.memory_busy_seconds)
        idle.add_metric([kind, device, "compute"], streams.compute_idle_seconds)
        idle.add_metric([kind, device, "memory"], streams.memory_idle_seconds)
        fetched.add_metric([kind, device], streams.bytes)
        decided.add_metric([kind, device], streams.decision_seconds)
        peak.add_metric([kind, device], streams.peak_bytes)
        capacity.add_metric([kind, device], streams.capacity_bytes)
    yield from (busy, idle, fetched, decided, peak, capacity)


class Metrics:
    """The text of /metrics."""

    def __init__(
        self,
        measures: Mapping[str, ModelCounters],
        state: Callable[[], SidecarState],
        memory: RequestMemory | None = None,
        cache: Path | None = None,
    ) -> None:
        self._measures = measures
        self._registry = CollectorRegistry()
        self._registry.register(SidecarCollector(measures, state, memory or RequestMemory()))
        if cache is not None:
            self._registry.register(CacheCollector(cache))

    def families(self) -> Iterator[Metric]:
        """The same as objects."""
        for family in text_string_to_metric_families("".join(triton_lines(self._measures))):
            if family.samples:
                yield family
        yield from self._registry.collect()

    def text(self) -> bytes:
        """Prometheus text format."""
        return "".join(triton_lines(self._measures)).encode() + generate_latest(self._registry)


def triton_lines(measures: Mapping[str, ModelCounters]) -> Iterator[str]:
    """Triton's families. The client library would add `_total` to the names of counters, which Triton lacks."""
    for name, (text, value) in _TRITON.items():
        yield _header(name, "counter", text)
        for model, counts in measures.items():
            yield f"{name}{{{_of_model(model, counts)}}} {float(value(counts))}\n"
    name = "nv_inference_request_failure"
    yield _header(name, "counter", "Requests answered with an error, by reason")
    for model, counts in measures.items():
        for reason, number in _FAILURES.items():
            yield f'{name}{{{_of_model(model, counts)},reason="{reason}"}} {float(number(counts))}\n'
    name = "nv_inference_pending_request_count"
    yield _header(name, "gauge", "Requests that wait or run")
    for model, counts in measures.items():
        yield f"{name}{{{_of_model(model, counts)}}} {float(counts.pending)}\n"


def _header(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _of_model(model: str, counts: ModelCounters) -> str:
    """Labels; the manifest's rules leave nothing to escape in a model's name."""
    return f'model="{model}",version="{counts.version}"'
