"""The operator's process against a real API server: its passes and its metrics at a receiver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e.cluster import ControlPlane
from tests.reconcile.bed import Bed, prepare
from tests.sidecar.collector import Collector, Received

pytestmark = pytest.mark.apiserver


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    """An API server with our CRDs and nothing else."""
    with ControlPlane.start("otlp", scheduler=False) as plane:
        prepare(plane)
        yield Bed(plane=plane, folder=tmp_path)


def test_what_it_does_and_counts_arrives(bed: Bed, collector: Collector, variables: dict[str, str]) -> None:
    bed.create(3)
    with bed.operator(**variables, OTEL_METRIC_EXPORT_INTERVAL="200") as operator:
        bed.converge(3, within_s=30)
        spans = collector.until(are_whole)
        exposed = {family.name for family in text_string_to_metric_families(operator.metrics()) if family.samples}
        found = collector.until_metrics(*(name for name in exposed if name.startswith("batchwright_")))
    passes = {each.span: each for each in spans if each.name.startswith("reconcile ")}
    assert {each.service for each in spans} == {"batchwright-operator"}
    for each in passes.values():
        assert {"observe", "decide"} <= {inner.name for inner in spans if inner.parent == each.span}
    assert found["batchwright_leader"].gauge.data_points[0].as_double == 1
    assert "batchwright-operator" in collector.services


def are_whole(spans: list[Received]) -> bool:
    """Each act, one on a ConfigMap among them, with its pass, which ends, and so arrives, behind it."""
    acts = [each for each in spans if each.name == "act"]
    kinds = {each.attributes["k8s.object.kind"] for each in acts}
    return {each.parent for each in acts} <= {each.span for each in spans} and "ConfigMap" in kinds and len(acts) >= 3
