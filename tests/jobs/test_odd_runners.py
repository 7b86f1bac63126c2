"""Runners as strangers' clusters have them, and child Jobs that somebody else suspends or deletes."""

from __future__ import annotations

from typing import Any

import pytest

from batchwright_operator.jobs.runner_pods import shard_of
from batchwright_operator.kube.objects import JOB, POD, Raw
from batchwright_operator.kube.times import rfc3339
from tests.deployments.kstatus import kstatus
from tests.jobs.job_objects import World, job

OUT_OF_MEMORY = {"exitCode": 137, "reason": "OOMKilled"}


def waits(world: World, pod: Raw, **status: Any) -> None:
    world.api.put(POD, pod | {"status": {"phase": "Pending", **status}})


def image(reason: str) -> list[Raw]:
    return [{"name": "runner", "image": "nope:1", "state": {"waiting": {"reason": reason}}}]


@pytest.mark.parametrize("good_first", [True, False])
def test_any_pod_that_waits_may_be_the_one_that_says_why(good_first: bool) -> None:
    world = World()
    world.planned()
    names = ("run-a", "run-b") if good_first else ("run-b", "run-a")
    for name, reason in zip(names, ("ContainerCreating", "ErrImagePull"), strict=True):
        waits(world, world.pod("run", name, 0 if name == "run-a" else 1), containerStatuses=image(reason))
    world.settle()
    assert (world.true(), world.status["summary"]["reason"]) == (["Reconciling"], "ImagePullFailed")


def test_of_several_problems_the_worst_is_told_whatever_the_order() -> None:
    world = World()
    world.planned()
    late = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes",
             "lastTransitionTime": rfc3339(world.api.now - 60)}]  # fmt: skip
    waits(world, world.pod("run", "run-a", 0), conditions=late)
    waits(world, world.pod("run", "run-b", 1), containerStatuses=image("ImagePullBackOff"))
    world.settle()
    assert world.status["summary"]["reason"] == "ImagePullFailed"


def fail(world: World, name: str, **status: Any) -> None:
    world.api.put(POD, world.pod("plan", name) | {"status": {"phase": "Failed", **status}})
    world.api.now += 1


def test_runners_that_the_kubelet_ends_one_after_the_other_are_told() -> None:
    world = World()
    world.settle()
    for index in range(3):
        fail(world, f"plan-{index}", reason="Evicted", message="The node was low on resource: ephemeral-storage.")
    world.settle()
    assert (world.true(), world.status["summary"]["reason"]) == (["Reconciling"], "PodsEnded")
    assert "low on resource: ephemeral-storage" in world.said("Reconciling")
    world.pod("plan", "plan-9")
    world.settle()
    assert world.true() == []


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            {"containerStatuses": [{"name": "runner", "state": {"terminated": OUT_OF_MEMORY}}]},
            "container runner ran out of memory; raise its memory limit",
        ),
        ({"reason": "DeadlineExceeded", "message": "Pod was active too long"}, "DeadlineExceeded: Pod was active"),
        ({"reason": "UnexpectedAdmissionError", "message": "no devices"}, "UnexpectedAdmissionError: no devices"),
    ],
)  # fmt: skip
def test_a_runner_that_left_no_message_is_told_of_by_whoever_ended_it(status: Raw, said: str) -> None:
    world = World()
    world.settle()
    fail(world, "plan-1", **status)
    world.tell("plan", "Failed", reason="BackoffLimitExceeded")
    world.settle()
    assert world.status["summary"]["reason"] == "PlanFailed"
    assert said in world.said("Failed")


def test_a_child_job_that_somebody_else_suspends_is_told_and_left_alone() -> None:
    world = World()
    world.planned()
    child = world.child("run")
    assert child is not None
    world.api.put(JOB, child | {"spec": child["spec"] | {"suspend": True}})
    world.settle()
    assert (world.status["summary"]["reason"], kstatus(world.raw)) == ("ChildSuspended", "Current")
    assert world.decide().actions == world.decide().actions
    found = world.child("run")
    assert found is not None
    assert found["spec"]["suspend"] is True
    world.api.put(JOB, found | {"spec": found["spec"] | {"suspend": False}})
    world.settle()
    assert world.status["summary"]["reason"] == "Running"


def test_a_child_job_that_its_user_suspends_is_not_said_to_be_somebody_elses() -> None:
    world = World(job(suspend=True))
    world.settle()
    world.change(suspend=False)
    world.settle()
    assert world.status["summary"]["reason"] == "Planning"


def test_a_child_job_that_cannot_be_deleted_is_told_with_what_it_waits_for() -> None:
    world = World()
    world.planned()
    child = world.child("run")
    assert child is not None
    leaving = {"deletionTimestamp": rfc3339(world.api.now), "finalizers": ["foregroundDeletion"]}
    world.api.put(JOB, child | {"metadata": child["metadata"] | leaving})
    decision = world.decide()
    assert decision.status is not None
    [said] = [each for each in decision.status.status["conditions"] if each["type"] == "Reconciling"]
    assert (said["status"], said["reason"]) == ("True", "ChildLeaving")
    assert "finalizers (foregroundDeletion)" in said["message"]


@pytest.mark.parametrize("text", ["²", "x", "9" * 5000])
def test_an_index_that_somebody_edited_is_of_no_shard(text: str) -> None:
    assert shard_of({"metadata": {"annotations": {"batch.kubernetes.io/job-completion-index": text}}}) == -1
