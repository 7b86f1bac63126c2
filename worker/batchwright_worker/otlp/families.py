"""Metrics that Prometheus reads, as OpenTelemetry's SDK has them: the same names and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

_Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Buckets:
    """A histogram of one set of labels: cumulative counts by upper bound, as Prometheus has them."""

    counts: dict[float, float] = field(default_factory=dict)
    total: float = 0.0


def metrics_data(families: Iterable[Family], resource: Any, *, start_ns: int, now_ns: int) -> Any:
    """What an exporter takes; counters and histograms count from `start_ns` on."""
    from opentelemetry.sdk.metrics.export import Metric, MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    metrics = []
    for family in families:
        data = _data(family, start_ns, now_ns)
        if data.data_points:
            metrics.append(Metric(family.name, family.documentation, family.unit, data))
    scope = ScopeMetrics(InstrumentationScope("batchwright"), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _data(family: Family, start_ns: int, now_ns: int) -> Any:
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, NumberDataPoint, Sum

    if family.type in ("histogram", "gaugehistogram"):
        return Histogram(list(_histograms(family, start_ns, now_ns)), AggregationTemporality.CUMULATIVE)
    points = [
        NumberDataPoint(dict(sample.labels), start_ns, now_ns, sample.value)
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    return Sum(points, AggregationTemporality.CUMULATIVE, True) if family.type == "counter" else Gauge(points)


def _histograms(family: Family, start_ns: int, now_ns: int) -> Iterator[Any]:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    found: dict[_Labels, _Buckets] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        buckets = found.setdefault(tuple(sorted(labels.items())), _Buckets())
        if sample.name.endswith("_bucket"):
            buckets.counts[float(sample.labels["le"])] = sample.value
        elif sample.name.endswith("_sum"):
            buckets.total = sample.value
    for labels_, buckets in found.items():
        bounds = sorted(buckets.counts)
        cumulative = [int(buckets.counts[bound]) for bound in bounds]
        yield HistogramDataPoint(
            attributes=dict(labels_),
            start_time_unix_nano=start_ns,
            time_unix_nano=now_ns,
            count=cumulative[-1],
            sum=buckets.total,
            bucket_counts=[count - before for count, before in zip(cumulative, [0, *cumulative], strict=False)],
            explicit_bounds=[bound for bound in bounds if bound != float("inf")],
            min=None,  # type: ignore[arg-type]  # Prometheus has none, and OTLP need not
            max=None,  # type: ignore[arg-type]
        )
