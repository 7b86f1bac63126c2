"""Nodes with several devices: what the profile says of them, and how many of them a benchmark takes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import JOB, NODE, Raw
from batchwright_operator.processors.processor import Processor, processors_of
from batchwright_worker.api.messages import BenchmarkResult, DeviceInfo, LoadTableRow
from batchwright_worker.api.names import KIND_EMULATED, LABEL_BENCHMARK_OPT_OUT
from tests.placement.placement_objects import node
from tests.processors.test_profiles import World

GPU = "nvidia.com/gpu"
EIGHT = [DeviceInfo(id=str(i), memory_bytes=1 << 30) for i in range(8)]
ONE = BenchmarkResult(
    kind=KIND_EMULATED,
    devices=[DeviceInfo(id="0", memory_bytes=1 << 30)],
    load_table=[LoadTableRow(batch_size=8, images_per_second=100.0, max_services=1)],
    capacity_images_per_second=100.0,
)


def limits(job: Raw) -> Any:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container["resources"].get("limits")


def world_with(count: int, kind: str = KIND_EMULATED, **labels: str) -> World:
    """A node with so many devices, its CPU opted out of the way by being measured already."""
    world = World(node("n", labels=labels, **{kind: str(count)}))
    world.settle()
    world.finish()
    world.settle()
    return world


def measured(count: int, result: BenchmarkResult, kind: str = KIND_EMULATED, **labels: str) -> tuple[World, Raw]:
    """After the benchmark of the accelerator came out like this; and the Job that did it."""
    world = world_with(count, kind, **labels)
    job = world.job_of(kind)
    world.facts.objects[JOB] = [job]
    world.finish(msgspec.structs.replace(result, kind=kind))
    world.settle()
    return world, job


def test_the_first_benchmark_takes_all_devices_and_the_node_counts_them_all() -> None:
    world, job = measured(8, msgspec.structs.replace(ONE, devices=EIGHT, scaling=0.9))
    assert limits(job) == {KIND_EMULATED: "8"}
    env = {each["name"]: each["value"] for each in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["BATCHWRIGHT_DEVICES"] == "8"
    found: Processor = world.processor(KIND_EMULATED)
    assert (found.slots, found.capacity, found.scaling, found.node_capacity) == (8, 100.0, 0.9, 720.0)
    entry = world.profile["status"]["processors"][1]
    assert (entry["slots"], entry["scaling"], entry["nodeImagesPerSecond"]) == (8, "0.90", "720.0")


def test_a_device_that_breaks_is_counted_no_more_and_nothing_is_measured_again() -> None:
    world, _ = measured(8, msgspec.structs.replace(ONE, devices=EIGHT))
    world.facts.put(NODE, node("n", **{KIND_EMULATED: "7"}))
    assert world.settle().actions == ()
    assert (world.processor(KIND_EMULATED).slots, world.processor(KIND_EMULATED).node_capacity) == (7, 700.0)


def test_no_more_devices_are_measured_at_once_than_their_message_holds() -> None:
    world = world_with(56, "nvidia.com/mig-1g.10gb")
    assert limits(world.job_of("nvidia.com/mig-1g.10gb")) == {"nvidia.com/mig-1g.10gb": "16"}


def test_time_slicing_by_labels_is_capacity_of_devices_not_of_slots() -> None:
    labels = {"nvidia.com/gpu.replicas": "4"}
    world, job = measured(8, ONE, GPU, **labels)
    assert limits(job) == {GPU: "1"}  # a device plugin may refuse a pod that asks for two shares
    found: Processor = world.processor(GPU)
    assert (found.slots, found.slots_per_device, found.node_capacity) == (8, 4, 200.0)


def test_time_slicing_that_nothing_tells_of_shows_in_the_devices_that_were_seen() -> None:
    world, job = measured(
        8, msgspec.structs.replace(ONE, devices=[DeviceInfo(id=str(i), memory_bytes=1) for i in "ab"]), GPU
    )
    assert limits(job) == {GPU: "8"}
    found: Processor = world.processor(GPU)
    assert (found.slots, found.slots_per_device, found.node_capacity) == (8, 4, 200.0)


@pytest.mark.parametrize("kind", ["nvidia.com/gpu.shared", "nvidia.com/mig-1g.10gb.shared"])
def test_shared_devices_are_kinds_of_their_own(kind: str) -> None:
    world, job = measured(4, ONE, kind, **{f"{kind.removesuffix('.shared')}.replicas": "2"})
    assert limits(job) == {kind: "1"}
    assert (world.processor(kind).slots, world.processor(kind).node_capacity) == (4, 200.0)


def test_mixed_mig_is_a_kind_per_profile() -> None:
    small, large = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb"
    world = World(node("n", labels={LABEL_BENCHMARK_OPT_OUT: "true"}, **{small: "4", large: "1", GPU: "0"}))
    world.settle()
    found = processors_of(world.profile)
    assert {kind: each.slots for kind, each in found.items()} == {"cpu": 0, small: 4, large: 1}


@pytest.mark.parametrize(
    ("how", "reason"), [({"ready": False}, "NodeNotReady"), ({"cordoned": True}, "NodeCordoned"), ({}, "NodeReady")]
)
def test_the_profile_says_whether_its_node_takes_pods(how: dict[str, Any], reason: str) -> None:
    world = World(node("n", **how))
    world.settle()
    found = find(world.profile["status"]["conditions"], "Schedulable")
    assert (found["status"], found["reason"]) == ("False" if how else "True", reason)
