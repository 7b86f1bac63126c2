"""A move that is written on a Deployment: one pod more while it lasts, and nothing else changes by it."""

from __future__ import annotations

import pytest

from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, DEPLOYMENT
from batchwright_operator.placement.moves import ANNOTATION_MOVE, ANNOTATION_SURGE, Move, State, render
from batchwright_worker.api.names import ANNOTATION_KIND
from tests.deployments.deployment_objects import NVIDIA, deployment, emulated, model, profile
from tests.deployments.deployment_world import World
from tests.deployments.kstatus import kstatus
from tests.deployments.test_kind_change import asked, gpus, on_cpus, start_one, step

SINCE = "2027-01-15T08:00:00Z"


def write_move(world: World, kind: str, state: State) -> None:
    """As rebalancing does."""
    moved = Move(pod="p", uid="u", source="slow", target="fast", state=state, since=SINCE, began=SINCE)
    for raw in world.api.all(DEPLOYMENT):
        metadata = raw["metadata"]
        if metadata["annotations"][ANNOTATION_KIND] == kind:
            annotations = {**metadata["annotations"], ANNOTATION_MOVE: render(moved)}
            world.api.put(DEPLOYMENT, {**raw, "metadata": {**metadata, "annotations": annotations}})


def surges(world: World) -> list[str | None]:
    return [each["metadata"]["annotations"].get(ANNOTATION_SURGE) for each in world.api.all(DEPLOYMENT)]


@pytest.mark.parametrize("end", ["Leaving", "GivenUp"])
def test_a_move_is_one_pod_more_until_one_leaves(end: State) -> None:
    world = on_cpus(2)
    write_move(world, "cpu", "Surging")
    for _ in range(3):
        step(world)
    assert (asked(world), surges(world)) == ({"cpu": 3}, ["1"])
    assert world.raw["status"]["readyReplicas"] == 2
    assert kstatus(world.raw) == "Current"  # what serves, serves on
    assert start_one(world, "cpu")
    step(world)
    assert asked(world) == {"cpu": 3}
    write_move(world, "cpu", end)
    for _ in range(3):
        step(world)
    assert (asked(world), surges(world)) == ({"cpu": 2}, [None])


def test_a_move_takes_nothing_away_from_another_kind() -> None:
    """The pod more is nobody's share: the replicas asked for are still two and two."""
    world = World(deployment(models=[model("echo", emulated("cpu"), emulated(NVIDIA))], replicas=4))
    world.api.put(ACCELERATOR_PROFILE, profile("cpu-1", "cpu", 400))
    world.api.put(ACCELERATOR_PROFILE, gpus(2))
    world.serve()
    before = asked(world)
    assert set(before) == {"cpu", NVIDIA}
    write_move(world, "cpu", "Surging")
    for _ in range(3):
        step(world)
    assert asked(world) == {**before, "cpu": before["cpu"] + 1}


def test_replicas_can_be_changed_during_a_move() -> None:
    world = on_cpus(2)
    write_move(world, "cpu", "Surging")
    step(world)
    world.change(replicas=5)
    step(world)
    assert asked(world) == {"cpu": 6}
