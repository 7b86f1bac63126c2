"""A registry of Prometheus at a receiver of OTLP."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from batchwright_worker.otlp.metrics_export import MetricsExport
from tests.sidecar.collector import Collector


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("passes", "Passes.", ["reconciler"], registry=registry).labels("placement").inc(3)
    Gauge("leader", "Leads.", registry=registry).set(1)
    seconds = Histogram("pass_seconds", "Seconds.", ["reconciler"], buckets=(0.1, 1), registry=registry)
    for value in (0.05, 0.5, 0.6, 7):
        seconds.labels("placement").observe(value)
    Gauge("empty", "Nothing yet.", ["node"], registry=registry)
    return registry


async def test_all_families_arrive_with_their_names_labels_and_values(
    collector: Collector, environ: dict[str, str], registry: CollectorRegistry
) -> None:
    export = MetricsExport.of(registry.collect, {**environ, "OTEL_METRIC_EXPORT_INTERVAL": "50"}, "me")
    assert export is not None
    running = asyncio.create_task(export.run())
    found = await asyncio.to_thread(collector.until_metrics, "passes", "leader", "pass_seconds")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    (point,) = found["passes"].sum.data_points
    assert (point.as_double, found["passes"].sum.is_monotonic) == (3, True)
    assert {each.key: each.value.string_value for each in point.attributes} == {"reconciler": "placement"}
    assert found["passes"].sum.aggregation_temporality == 2, "cumulative"
    assert found["leader"].gauge.data_points[0].as_double == 1
    (seconds,) = found["pass_seconds"].histogram.data_points
    assert list(seconds.explicit_bounds) == [0.1, 1]
    assert list(seconds.bucket_counts) == [1, 2, 1]
    assert (seconds.count, seconds.sum) == (4, pytest.approx(8.15))
    assert not seconds.HasField("min")
    assert "empty" not in found
    assert collector.services == {"me"}


async def test_what_happened_last_is_sent_at_the_end(
    collector: Collector, environ: dict[str, str], registry: CollectorRegistry
) -> None:
    export = MetricsExport.of(registry.collect, environ, "me")
    assert export is not None
    running = asyncio.create_task(export.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert "passes" in collector.metrics


async def test_a_receiver_that_is_away_ends_nothing(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_METRIC_EXPORT_INTERVAL": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    export = MetricsExport.of(registry.collect, variables, "me")
    assert export is not None
    running = asyncio.create_task(export.run())
    await asyncio.sleep(0.05)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_nothing_without_an_endpoint(registry: CollectorRegistry) -> None:
    assert MetricsExport.of(registry.collect, {}, "me") is None
