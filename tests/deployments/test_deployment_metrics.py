"""The gauges that autoscalers and alerts read."""

from __future__ import annotations

import msgspec
import pytest

from batchwright_worker.api.messages import DeviceState
from tests.deployments.deployment_objects import deployment, histogram, model, model_state, state
from tests.deployments.deployment_world import World


def gauges(world: World) -> dict[str, float]:
    """By name, without the labels, which are those of the object."""
    labels = '{namespace="shop",name="ocr"}'
    found = world.decide().metrics
    assert all(each.endswith(labels) for each in found)
    found = {name: value for name, value in found.items() if "outdated" not in name and "upgrading" not in name}
    prefix = "batchwright_modeldeployment_"
    return {each.removeprefix(prefix).removesuffix(labels): value for each, value in found.items()}


def device(busy: float) -> DeviceState:
    return DeviceState(kind="cpu", device="0", busy_ratio=busy, memory_used_bytes=0, memory_bytes=0)


def test_what_no_replica_reports_is_missing_and_not_zero() -> None:
    world = World(deployment(replicas=2))
    world.settle()
    assert gauges(world) == {"replicas_wanted": 2.0, "replicas_ready": 0.0, "available": 0.0, "stalled": 0.0}


def test_all_replicas_together() -> None:
    world = World(deployment(replicas=2, models=[model("a"), model("b")]))
    world.serve()
    first, second = world.api.pods()
    quick, slow = histogram(*[10.0] * 100), histogram(*[10.0] * 90, *[900.0] * 10)
    for pod, busy, queue in ((first, 0.2, 3), (second, 0.6, 4)):
        models = [
            model_state("a", queue_length=queue, throughput=10.0, latency_counts=quick),
            model_state("b", queue_length=1, throughput=5.0, latency_counts=slow),
        ]
        world.hear(pod, msgspec.structs.replace(state(*models), devices=[device(busy)]))
    found = gauges(world)
    assert 0.75 <= found.pop("latency_p95_seconds") <= 1.1
    assert found == pytest.approx(
        {
            "replicas_wanted": 2.0,
            "replicas_ready": 2.0,
            "available": 1.0,
            "stalled": 0.0,
            "queue_length": 9.0,
            "throughput_rows_per_second": 30.0,
            "utilization_ratio": 0.4,
        }
    )


def test_without_requests_there_is_no_p95_but_a_queue_of_zero() -> None:
    world = World()
    world.serve()
    found = gauges(world)
    assert "latency_p95_seconds" not in found
    assert (found["queue_length"], found["throughput_rows_per_second"]) == (0.0, 0.0)
