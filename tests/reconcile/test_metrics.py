"""The operator's own metrics: gauges that reconcilers decide, and samples."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from batchwright_operator.process.loop_watch import LOOK_S, LoopWatch
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.reconcile.metrics import Metrics, parse_name

ROOT = Path(__file__).parents[2]
SAMPLES = {
    "batchwright_processor_utilization_ratio",
    "batchwright_processor_memory_utilization_ratio",
    "batchwright_processor_sample_timestamp_seconds",
}
"""Of processors, not of the operator."""


def test_metrics_of_reconcilers_and_samples_are_served() -> None:
    live = LiveState()
    metrics = Metrics(live)
    live.samples[("a", "cpu")] = Sample(utilization=0.5, memory_utilization=0.25, taken_at=9.0)
    metrics.decided(Key(reconciler="d"), {'load{node="a",kind="x\\"y"}': 0.25, "plain": 1.0})
    assert metrics.registry.get_sample_value("load", {"node": "a", "kind": 'x"y'}) == 0.25
    assert metrics.registry.get_sample_value("plain") == 1.0
    labels = {"node": "a", "kind": "cpu"}
    assert metrics.registry.get_sample_value("batchwright_processor_utilization_ratio", labels) == 0.5
    metrics.decided(Key(reconciler="d"), {})
    assert metrics.registry.get_sample_value("plain") is None


def test_what_decisions_observed_and_counted_is_served() -> None:
    metrics = Metrics(LiveState())
    metrics.observed({"batchwright_placement_gate_age_seconds": (0.2, 3.0)})
    metrics.counted({'batchwright_benchmarks_total{kind="cpu",outcome="Benchmarked"}': 2})
    metrics.called("patch", 409)
    value = metrics.registry.get_sample_value
    assert value("batchwright_placement_gate_age_seconds_count") == 2
    assert value("batchwright_placement_gate_age_seconds_bucket", {"le": "0.25"}) == 1
    assert value("batchwright_benchmarks_total", {"kind": "cpu", "outcome": "Benchmarked"}) == 2
    assert value("batchwright_api_calls_total", {"verb": "patch", "code": "409"}) == 1


def test_sizes_of_the_cache_are_served() -> None:
    metrics, sizes = Metrics(LiveState()), {"pods": 3}
    metrics.show_store(lambda: sizes)
    assert metrics.registry.get_sample_value("batchwright_cache_objects", {"resource": "pods"}) == 3
    sizes["pods"] = 4
    assert metrics.registry.get_sample_value("batchwright_cache_objects", {"resource": "pods"}) == 4


async def test_silence_of_the_event_loop_is_measured() -> None:
    metrics = Metrics(LiveState())
    watch = LoopWatch(metrics)
    running = asyncio.ensure_future(watch.run())
    await asyncio.sleep(3 * LOOK_S)
    time.sleep(0.3)  # noqa: ASYNC251 - what is to be noticed
    await asyncio.sleep(3 * LOOK_S)
    running.cancel()
    assert (metrics.registry.get_sample_value("batchwright_event_loop_longest_silence_seconds") or 0.0) > 0.1


def test_every_metric_of_the_operator_is_on_the_page() -> None:
    metrics = Metrics(LiveState())
    page = (ROOT / "docs" / "operator.md").read_text()
    names = {family.name for family in metrics.registry.collect()} - SAMPLES
    assert not [name for name in names if name not in page]


def test_a_bad_metric_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no name of a metric"):
        parse_name("9lives")
