"""Recorded scrapes of the vendors' exporters: right values, sentinels, absent series, MIG."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchwright_operator.telemetry.exporters import Series, is_measured, node_of, samples_of
from tests.placement.placement_objects import NOW

SCRAPES = Path(__file__).parent / "scrapes"
NODES = {name: name for name in ("gpu-node-1", "mig-node", "amd-node", "npu-node")} | {"10.0.0.4": "npu-node"}
KINDS = {
    "gpu-node-1": ("cpu", "nvidia.com/gpu"),
    "mig-node": ("cpu", "nvidia.com/gpu", "nvidia.com/mig-1g.10gb"),
    "amd-node": ("cpu", "amd.com/gpu"),
    "npu-node": ("cpu", "huawei.com/Ascend910"),
}


def scraped(name: str, **added: str) -> list[Series]:
    """The series of a recorded scrape; `added` labels are those that a Prometheus server adds."""
    families = text_string_to_metric_families((SCRAPES / name).read_text())
    return [
        Series(name=each.name, labels={**each.labels, **added}, value=each.value, age_s=3.0)
        for family in families
        for each in family.samples
    ]


def read(name: str, **added: str) -> dict[tuple[str, str], tuple[float, float]]:
    samples = samples_of(scraped(name, **added), NODES, KINDS, NOW)
    assert all(each.taken_at == NOW - 3.0 for each in samples.values())
    return {
        place: (pytest.approx(each.utilization), pytest.approx(each.memory_utilization))
        for place, each in samples.items()
    }


def test_dcgm() -> None:
    """Two GPUs: 87 and 13 %, 30000 of 40000 and 10000 of 40000 MiB; a third tells only sentinels."""
    assert read("dcgm.prom") == {("gpu-node-1", "nvidia.com/gpu"): (0.5, 0.5)}


def test_dcgm_with_mig() -> None:
    """Per instance: the whole GPU's utilization is a sentinel, the instances' engine activity counts."""
    samples = samples_of(scraped("dcgm-mig.prom"), NODES, KINDS, NOW)
    (sample,) = [each for place, each in samples.items() if place == ("mig-node", "nvidia.com/mig-1g.10gb")]
    assert [(each.id, each.utilization, each.memory_utilization) for each in sample.devices] == [
        ("GPU-5f1c/7", pytest.approx(0.9), pytest.approx(0.75)),
        ("GPU-5f1c/8", pytest.approx(0.1), pytest.approx(0.25)),
    ]


def test_dcgm_with_mig_under_one_name() -> None:
    kinds = {"mig-node": ("cpu", "nvidia.com/gpu")}
    assert set(samples_of(scraped("dcgm-mig.prom"), NODES, kinds, NOW)) == {("mig-node", "nvidia.com/gpu")}


@pytest.mark.parametrize("offered", ["nvidia.com/gpu.shared", "nvidia.com/gpu"])
def test_shared_gpus_count_under_the_name_that_the_node_offers(offered: str) -> None:
    found = samples_of(scraped("dcgm.prom"), NODES, {"gpu-node-1": ("cpu", offered)}, NOW)
    assert set(found) == {("gpu-node-1", offered)}


def test_shared_partitions_count_under_their_own_name() -> None:
    offered = "nvidia.com/mig-1g.10gb.shared"
    found = samples_of(scraped("dcgm-mig.prom"), NODES, {"mig-node": ("cpu", "nvidia.com/gpu", offered)}, NOW)
    assert len(found["mig-node", offered].devices) == 2


def test_amd() -> None:
    assert read("amd.prom") == {("amd-node", "amd.com/gpu"): (0.25, 0.5)}


def test_ascend() -> None:
    """The exporter names no node: the scraped address does. HBM counts where a chip has it."""
    assert read("ascend.prom", instance="10.0.0.4:8082") == {("npu-node", "huawei.com/Ascend910"): (0.6, 0.375)}


def test_nodes_without_such_processors_have_no_sample() -> None:
    assert samples_of(scraped("dcgm.prom"), NODES, {"gpu-node-1": ("cpu",)}, NOW) == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, True), (100.0, True), (81559.0, True), (9223372036854775794, False), (9223372036854775792, False),
     (2147483632, False), (2147483635, False), (140737488355328.0, False), (float("nan"), False), (-1.0, False)],
)  # fmt: skip
def test_sentinels(value: float, expected: bool) -> None:
    assert is_measured(value) is expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"Hostname": "gpu-node-1", "instance": "10.0.0.4:9400"}, "gpu-node-1"),
        ({"hostname": "exporter-7f9", "instance": "10.0.0.4:9400"}, "npu-node"),
        ({"instance": "10.9.9.9:9400"}, None),
        ({}, None),
    ],
)
def test_node_of_a_series(labels: dict[str, str], expected: str | None) -> None:
    assert node_of(labels, NODES) == expected
