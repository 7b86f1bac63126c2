"""The operator's own metrics: gauges that reconcilers decide, and samples."""

from __future__ import annotations

import pytest

from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.reconcile.metrics import Metrics, parse_name


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


def test_a_bad_metric_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no name of a metric"):
        parse_name("9lives")
