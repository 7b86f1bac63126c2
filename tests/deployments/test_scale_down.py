"""Fewer replicas: the worst placed ones are marked before the Deployment is made smaller, and nothing else."""

from __future__ import annotations

import pytest

from batchwright_operator.deployments.scale_down import GOES_FIRST
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, DEPLOYMENT, POD, Raw
from batchwright_operator.placement.moves import ANNOTATION_DELETION_COST, FIRST_TO_GO
from batchwright_operator.placement.receipts import render
from batchwright_operator.reconcile.decisions import Apply, Patch
from batchwright_worker.api.messages import Receipt
from batchwright_worker.api.names import ANNOTATION_RECEIPT
from tests.deployments.deployment_objects import deployment, profile, state
from tests.deployments.deployment_world import World

SPEEDS = {"fast": 400.0, "medium": 100.0, "slow": 10.0}


def placed(world: World, pod: Raw, node: str, load: str, predicted: float | None = None) -> None:
    receipt = Receipt(node=node, processor="cpu", load=load, terms={}, predicted_throughput=predicted)
    notes = pod["metadata"]["annotations"] | {ANNOTATION_RECEIPT: render(receipt)}
    body = pod | {"metadata": pod["metadata"] | {"annotations": notes}}
    world.hear(world.api.start(world.api.place(body, node)), state())


def on(*nodes: str, loads: tuple[str, ...] = (), predicted: tuple[float, ...] = ()) -> World:
    """One replica on each of these nodes."""
    world = World(deployment(replicas=len(nodes)))
    for name, speed in SPEEDS.items():
        world.api.put(ACCELERATOR_PROFILE, profile(name, "cpu", speed))
    world.settle()
    world.api.roll_out()
    for index, (pod, node) in enumerate(zip(list(world.api.pods()), nodes, strict=True)):
        placed(world, pod, node, loads[index] if loads else "0.10", predicted[index] if predicted else None)
    world.settle()
    return world


def marked(world: World) -> list[str]:
    """Nodes of the pods that are to go."""
    return [
        pod["spec"]["nodeName"]
        for pod in world.api.pods()
        if ANNOTATION_DELETION_COST in (pod["metadata"].get("annotations") or {})
    ]


def test_the_replica_on_the_slowest_processor_goes_first_and_is_marked_before() -> None:
    world = on("fast", "slow", "medium")
    world.change(replicas=2)
    decision = world.decide()
    kinds = [type(each) for each in decision.actions]
    resources = [each.resource for each in decision.actions if isinstance(each, Patch | Apply)]
    assert kinds.index(Patch) < resources.index(DEPLOYMENT)
    world.settle()
    assert marked(world) == ["slow"]


@pytest.mark.parametrize(("count", "gone"), [(3, ["slow"]), (2, ["medium", "slow"]), (1, ["fast", "medium", "slow"])])
def test_as_many_are_marked_as_go(count: int, gone: list[str]) -> None:
    world = on("slow", "fast", "medium", "fast")
    world.change(replicas=count)
    world.settle()
    assert sorted(marked(world)) == gone


def test_on_equal_processors_the_one_that_was_loaded_when_it_came_goes() -> None:
    world = on("fast", "fast", "fast", loads=("0.10", "0.70", "0.30"))
    world.change(replicas=2)
    world.settle()
    [pod] = [each for each in world.api.pods() if ANNOTATION_DELETION_COST in each["metadata"]["annotations"]]
    assert '"load":"0.70"' in pod["metadata"]["annotations"][ANNOTATION_RECEIPT]


def test_what_was_predicted_for_them_counts_where_it_is_known() -> None:
    world = on("fast", "slow", "medium", predicted=(5.0, 8.0, 9.0))
    world.change(replicas=2)
    world.settle()
    assert marked(world) == ["fast"]


def test_nothing_is_marked_while_the_number_stays_or_grows() -> None:
    world = on("fast", "slow")
    world.change(replicas=3)
    world.settle()
    assert marked(world) == []


def test_a_mark_of_a_scale_down_that_did_not_happen_is_taken_off_by_the_next_one() -> None:
    world = on("fast", "slow", "medium")
    world.change(replicas=2)
    world.settle()
    assert marked(world) == ["slow"]
    world.change(replicas=3)
    world.settle()
    world.api.put(ACCELERATOR_PROFILE, profile("slow", "cpu", 900))
    world.change(replicas=2)
    world.settle()
    assert marked(world) == ["medium"]
    assert not any(isinstance(each, Patch) for each in world.decide().actions)


def test_a_pod_that_its_owner_calls_dear_is_left_alone() -> None:
    world = on("fast", "slow", "medium")
    dear = next(each for each in world.api.pods() if each["spec"]["nodeName"] == "slow")
    notes = dear["metadata"]["annotations"] | {ANNOTATION_DELETION_COST: "100"}
    world.api.put(POD, dear | {"metadata": dear["metadata"] | {"annotations": notes}})
    world.change(replicas=2)
    world.settle()
    notes_of = {each["spec"]["nodeName"]: each["metadata"]["annotations"] for each in world.api.pods()}
    costs = {node: notes.get(ANNOTATION_DELETION_COST) for node, notes in notes_of.items()}
    assert costs == {"fast": None, "slow": "100", "medium": str(GOES_FIRST)}


def test_the_replica_that_is_being_moved_is_the_one_that_goes() -> None:
    world = on("fast", "slow", "medium")
    moved = next(each for each in world.api.pods() if each["spec"]["nodeName"] == "fast")
    notes = moved["metadata"]["annotations"] | {ANNOTATION_DELETION_COST: FIRST_TO_GO}
    world.api.put(POD, moved | {"metadata": moved["metadata"] | {"annotations": notes}})
    world.change(replicas=2)
    world.settle()
    assert marked(world) == ["fast"]
    world.change(replicas=1)
    world.settle()
    costs = {each["spec"]["nodeName"]: each["metadata"]["annotations"].get(ANNOTATION_DELETION_COST)
             for each in world.api.pods()}  # fmt: skip
    assert costs == {"fast": FIRST_TO_GO, "slow": str(GOES_FIRST), "medium": None}


def test_to_zero_and_back_needs_no_marks() -> None:
    world = on("fast", "slow")
    world.change(replicas=0)
    world.settle()
    assert (world.api.all(DEPLOYMENT), world.status["replicas"], world.reason()) == ([], 0, "ScaledToZero")
    world.change(replicas=2)
    world.serve()
    assert (world.status["readyReplicas"], world.reason(), marked(world)) == (2, "Available", [])
