"""The history of a ModelDeployment, and the way back to an older revision."""

from __future__ import annotations

from typing import Any

from batchwright_operator.api.model_deployment import parse
from batchwright_operator.deployments.history import Step, differences, previous, restored, steps
from batchwright_operator.deployments.revision import parse_revision
from batchwright_operator.kube.objects import CONTROLLER_REVISION, DEPLOYMENT, MODEL_DEPLOYMENT, Raw
from batchwright_operator.reconcile.decisions import Delete
from tests.deployments.deployment_objects import EMULATED, deployment, emulated, model
from tests.deployments.deployment_world import World


def history(world: World) -> list[Step]:
    found = [parse_revision(each) for each in world.api.all(CONTROLLER_REVISION)]
    return steps(parse(world.raw), [each for each in found if each is not None])


def template(world: World) -> Any:
    [child] = world.api.all(DEPLOYMENT)
    return child["spec"]["template"]


def roll_back(world: World, step: Step | None) -> None:
    """As `kubectl batchwright rollback`."""
    assert step is not None
    world.api.put(MODEL_DEPLOYMENT, world.raw | {"spec": restored(world.raw["spec"], step.revisions[0])})
    world.settle()


def test_every_step_says_what_it_changed_and_which_one_is_current() -> None:
    world = World()
    world.serve()
    world.change(queueOrder="Oldest")
    world.serve()
    world.change(models=[model(), model("other")], placement={"nodeSelector": {"disk": "fast"}})
    world.serve()
    shown = [(step.number, step.changes, step.is_current) for step in history(world)]
    assert shown == [
        (1, (), False),
        (2, ("queueOrder",), False),
        (3, ("models[other]", "placement"), True),
    ]


def test_a_rollback_brings_back_the_template_and_leaves_what_no_pod_is_made_from() -> None:
    world = World(deployment(placement={"policy": "Additive", "nodeSelector": {"disk": "slow"}}))
    world.serve()
    before = template(world)
    world.change(queueOrder="Oldest", placement={"nodeSelector": {"disk": "fast"}})
    world.serve()
    world.change(replicas=3, strategy={"type": "Recreate"}, placement={"policy": "Forecast"})
    world.serve()
    roll_back(world, history(world)[0])
    assert template(world) == before
    spec = world.raw["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (3, "Recreate")
    assert spec["placement"] == {"policy": "Forecast", "nodeSelector": {"disk": "slow"}}
    world.serve()
    assert [step.number for step in history(world) if step.is_current] == [4]


def test_the_step_before_is_the_default_and_forth_is_as_easy_as_back() -> None:
    world = World()
    world.serve()
    one = template(world)
    world.change(queueOrder="Oldest")
    world.serve()
    two = template(world)
    roll_back(world, previous(history(world)))
    assert template(world) == one
    roll_back(world, previous(history(world)))
    assert template(world) == two


def test_kinds_that_one_change_concerns_share_its_number() -> None:
    world = World(deployment(models=[model("echo", emulated("cpu"), emulated())], replicas=4))
    world.serve()
    world.change(queueOrder="Oldest")
    world.serve()
    assert [(step.number, {each.kind for each in step.revisions}) for step in history(world)] == [
        (1, {"cpu", EMULATED}),
        (2, {"cpu", EMULATED}),
    ]


def test_without_an_older_revision_there_is_no_way_back() -> None:
    world = World()
    world.serve()
    assert previous(history(world)) is None


def test_a_restart_is_a_step_with_the_same_spec() -> None:
    world = World()
    world.serve()
    before = template(world)
    metadata: Raw = world.raw["metadata"] | {"annotations": {"batchwright.dev/restarted-at": "2026-11-30T12:00:00Z"}}
    world.api.put(MODEL_DEPLOYMENT, world.raw | {"metadata": metadata})
    world.serve()
    assert template(world) != before
    assert [(step.number, step.changes) for step in history(world)] == [(1, ()), (2, ())]
    assert previous(history(world)) is None


def test_differences_are_paths_with_names() -> None:
    before = {"a": 1, "models": [{"name": "x", "targets": {"p": 1}}, {"name": "y"}], "args": ["1"], "gone": {}}
    after = {"a": 1, "models": [{"name": "x", "targets": {"p": 2}}], "args": ["2"], "new": 1}
    assert sorted(differences(before, after)) == ["args", "gone", "models[x].targets.p", "models[y]", "new"]


def orphaned(world: World) -> None:
    """All children are left behind, as by `kubectl delete --cascade=orphan`."""
    for (plural, namespace, name), child in list(world.api.objects.items()):
        if child["metadata"].get("ownerReferences") and plural not in ("pods", "replicasets"):
            metadata = {key: value for key, value in child["metadata"].items() if key != "ownerReferences"}
            world.api.objects[plural, namespace, name] = {**child, "metadata": metadata}


def test_the_history_of_an_object_that_was_deleted_without_its_children_is_that_of_the_next_one() -> None:
    world = World()
    world.serve()
    one = template(world)
    world.change(queueOrder="Oldest")
    world.serve()
    numbers = [step.number for step in history(world)]
    orphaned(world)
    world.api.put(MODEL_DEPLOYMENT, world.raw | {"metadata": world.raw["metadata"] | {"uid": "another"}})
    world.settle()
    owners = {each["metadata"]["ownerReferences"][0]["uid"] for each in world.api.all(CONTROLLER_REVISION)}
    assert (owners, [step.number for step in history(world)]) == ({"another"}, numbers)
    roll_back(world, previous(history(world)))
    assert template(world) == one


def test_a_revision_that_is_nobody_s_yet_is_not_deleted_for_being_old() -> None:
    world = World(deployment(revisionHistoryLimit=0))
    world.serve()
    world.change(queueOrder="Oldest")
    world.serve()
    [kept] = world.api.all(CONTROLLER_REVISION)
    facts = {**kept, "metadata": {**kept["metadata"], "name": "ocr-cpu-old", "uid": "x"}, "revision": 0}
    del facts["metadata"]["ownerReferences"]
    world.api.objects["controllerrevisions", "user", "ocr-cpu-old"] = facts
    decision = world.decide()
    assert not [each for each in decision.actions if isinstance(each, Delete)]
