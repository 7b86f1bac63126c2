"""Benchmarks that fail, or do not get to run: what is tried again, when, and what it holds meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from batchwright_operator.kube.objects import JOB, NODE, POD, Raw
from batchwright_operator.reconcile.decisions import Create, Delete
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import BenchmarkResult
from tests.placement.placement_objects import node, pod
from tests.processors.test_profiles import World

DAY_S = 24 * 3600.0


def failed(**end: Any) -> World:
    """After a first benchmark that failed like this."""
    world = World(settings=Settings(spot_check_seconds=0))
    world.settle()
    world.finish(**(end or {"result": None, "failed": "BackoffLimitExceeded", "state": {"exitCode": 139}}))
    world.decide()
    return world


def jobs(world: World) -> list[Raw]:
    return world.facts.objects[JOB]


def test_a_failure_is_tried_again_and_a_good_result_ends_it() -> None:
    world = failed()
    assert world.processor().failures == 1
    assert world.decide().requeue_after_s == pytest.approx(29.1, abs=31)
    world.now += 59
    assert world.decide().actions == ()
    world.now += 2
    world.sample(0.05)
    kinds = [type(each) for each in (*world.decide().actions, *world.decide().actions)]
    assert kinds == [Delete, Create]
    assert not world.processor().awaiting
    world.finish()
    world.settle()
    found = world.processor()
    assert (found.reason, found.failures, found.retry_time, found.capacity) == ("Benchmarked", 0, "", 5.43)
    world.now += DAY_S
    assert world.decide().actions == ()


def test_waits_double_and_end_at_hours() -> None:
    world, waits = failed(), []
    for _ in range(12):
        before = world.now
        while not any(isinstance(each, Create) for each in world.decide().actions):
            world.now += 10
            world.sample(0.05)
        waits.append(world.now - before)
        world.finish(None, failed="BackoffLimitExceeded", state={"exitCode": 139})
        world.decide()
    assert waits[:4] == pytest.approx([60, 120, 240, 480], abs=25)
    assert waits[-1] == pytest.approx(6 * 3600, abs=25)
    assert world.processor().failures == 13


def test_what_the_benchmark_calls_hopeless_is_tried_again_seldom() -> None:
    world = failed(result=BenchmarkResult(kind="cpu", error="no device"), failed="PodFailurePolicy")
    world.now += 1800
    assert world.decide().actions == ()
    world.now += 1801
    assert [type(each) for each in world.decide().actions] == [Delete]


def test_other_hardware_forgets_the_failures() -> None:
    world = failed()
    world.facts.put(NODE, node("n", cpu="2"))
    world.settle()
    assert (world.processor().failures, len(jobs(world))) == (0, 1)


@pytest.mark.parametrize(
    ("status", "spec", "after_s", "reason"),
    [
        ({}, {}, 60, "BenchmarkNotStarted"),
        ({"containerStatuses": [{"name": "benchmark", "image": "x",
                                 "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}}]},
         {"nodeName": "n"}, 60, "BenchmarkImageNotPullable"),
        ({"containerStatuses": [{"name": "benchmark", "image": "x",
                                 "state": {"waiting": {"reason": "ContainerCreating"}}}]},
         {"nodeName": "n"}, 480, "BenchmarkNotStarted"),
    ],
)  # fmt: skip
def test_a_benchmark_that_does_not_start_gives_its_turn_back(
    status: Raw, spec: Raw, after_s: float, reason: str
) -> None:
    world = World()
    world.settle()
    world.facts.put(POD, world.bench_pod(status) | {"spec": spec})
    world.now += after_s - 2
    decision = world.decide()
    assert (world.processor().reason, decision.actions) == ("BenchmarkRunning", ())
    assert decision.requeue_after_s is not None
    assert decision.requeue_after_s <= after_s
    world.now += 3
    assert [type(each) for each in world.decide().actions] == [Delete]
    assert (world.processor().reason, world.processor().failures) == (reason, 1)
    world.facts.objects[POD] = []
    world.now += 61
    world.sample(0.05)
    assert [type(each) for each in world.decide().actions] == [Create]


def test_a_benchmark_whose_pod_was_never_made_gives_its_turn_back() -> None:
    world = World()
    world.settle()
    world.now += 61
    assert [type(each) for each in world.decide().actions] == [Delete]
    assert "events of its Job" in world.processor().message


def test_a_benchmark_that_runs_is_not_disturbed() -> None:
    world = World()
    world.settle()
    running = {"containerStatuses": [{"name": "benchmark", "image": "x", "state": {"running": {}}}]}
    world.facts.put(POD, world.bench_pod(running) | {"spec": {"nodeName": "n"}})
    world.now += 500
    assert world.decide().actions == ()


def test_devices_that_anybody_holds_are_not_free() -> None:
    world = World(node("n", **{"nvidia.com/gpu": "1"}))
    foreign = pod("foreign", kind="nvidia.com/gpu", nodeName="n", schedulingGates=[])
    foreign["metadata"] |= {"labels": {}, "annotations": {}, "ownerReferences": []}
    world.facts.put(POD, foreign)
    world.settle()
    world.finish()
    world.settle()
    assert world.processor("nvidia.com/gpu").message == "no device is free"
    assert len(jobs(world)) == 1


def test_without_samples_a_node_whose_pods_request_much_is_not_idle() -> None:
    world = World(node("n", cpu="4"))
    world.live.newest.clear()
    foreign = pod("foreign", cpu="2", nodeName="n", schedulingGates=[])
    foreign["metadata"] |= {"labels": {}, "annotations": {}, "ownerReferences": []}
    world.facts.put(POD, foreign)
    world.settle()
    assert (jobs(world), world.processor().message) == (
        [],
        "pods request much of it and its utilization is not known",
    )
