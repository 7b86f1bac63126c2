"""A change of targets and batching reaches pods as they run: no template changes, and the status says who has it."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest

from batchwright_operator.deployments import children, template_choice
from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import CONFIG_MAP, CONTROLLER_REVISION, DEPLOYMENT, Raw
from batchwright_worker.api.messages import ConfigurationState, SidecarState
from batchwright_worker.api.names import LIVE_FIELDS, configuration_digest
from tests.deployments.deployment_objects import NAMESPACE, deployment, model, state
from tests.deployments.deployment_world import World

LIVE: dict[str, Any] = {
    "targets": {"latencyMilliseconds": 50, "throughput": 7},
    "limits": {"runMilliseconds": 900, "loadMilliseconds": 9000},
    "batching": {
        "minSize": 2,
        "maxSize": 9,
        "initialSize": 3,
        "step": 2,
        "windowMilliseconds": 500,
        "trendLength": 5,
        "maxQueueDelayMilliseconds": 1,
        "maxQueueLength": 77,
        "controller": "MannKendall",
    },
}


def text_of(raw: Raw) -> str:
    return str(raw["data"]["deployment.json"])


def configurations(world: World) -> list[Raw]:
    return world.api.all(CONFIG_MAP)


def serves_by(raw: Raw, message: str = "") -> SidecarState:
    by = ConfigurationState(generation=1, digest=configuration_digest(text_of(raw).encode()), message=message)
    return msgspec.structs.replace(state(), configuration=by)


def served(replicas: int = 1) -> World:
    """Ready, and every sidecar serves by the newest configuration and says so."""
    world = World(deployment(replicas=replicas))
    world.settle()
    world.serve(serves_by(configurations(world)[0]))
    return world


def condition(world: World, name: str = "Configured") -> tuple[str, str]:
    found = find(world.status["conditions"], name)
    return found["status"], found["reason"]


def test_the_fields_are_those_of_this_table() -> None:
    assert set(LIVE_FIELDS) == {f"{part}.{name}" for part, names in LIVE.items() for name in names}


@pytest.mark.parametrize("path", LIVE_FIELDS)
def test_a_live_field_changes_the_configuration_and_nothing_that_pods_are_made_from(path: str) -> None:
    world = served()
    before, [config] = copy.deepcopy(world.api.all(DEPLOYMENT)), configurations(world)
    part, _, name = path.partition(".")
    world.change(models=[model() | {part: {name: LIVE[part][name]}}])
    world.settle()
    assert [each["spec"] for each in world.api.all(DEPLOYMENT)] == [each["spec"] for each in before]
    assert len(world.api.all(CONTROLLER_REVISION)) == 1
    [changed] = configurations(world)
    assert changed["metadata"]["name"] == config["metadata"]["name"]
    body = json.loads(text_of(changed))
    assert body["metadata"]["generation"] == 2
    assert body["spec"]["models"][0][part][name] == LIVE[part][name]


def test_it_is_ready_again_when_every_replica_serves_by_it() -> None:
    world = served(replicas=3)
    assert (condition(world), world.status["configuredReplicas"]) == (("True", "UpToDate"), 3)
    world.change(models=[model(targets={"latencyMilliseconds": 50})])
    world.settle()
    assert (condition(world), world.status["configuredReplicas"]) == (("False", "Sending"), 0)
    assert world.reason() == "Configuring"
    assert find(world.status["conditions"], "Available")["status"] == "True"
    [config], pods = configurations(world), world.api.pods()
    for count, pod in enumerate(list(pods), start=1):
        world.hear(pod, serves_by(config))
        world.later()
        assert world.status["configuredReplicas"] == count
    assert condition(world) == ("True", "UpToDate")
    assert world.reason() == "Available"


def test_one_that_does_not_take_it_over_says_why_and_the_others_serve_on() -> None:
    world = served(replicas=2)
    [before] = copy.deepcopy(configurations(world))
    world.change(models=[model(targets={"latencyMilliseconds": 50})])
    world.settle()
    [config], (first, second) = configurations(world), list(world.api.pods())
    world.hear(first, serves_by(config))
    world.hear(second, serves_by(before, "generation 2 differs in spec.queueOrder"))
    world.later()
    assert condition(world) == ("False", "Refused")
    found = find(world.status["conditions"], "Configured")["message"]
    assert second["metadata"]["name"] in found
    assert "spec.queueOrder" in found
    assert find(world.status["conditions"], "Available")["status"] == "True"
    assert find(world.status["conditions"], "Ready")["status"] == "False"


def test_sidecars_that_do_not_tell_are_named_and_hold_up_nothing() -> None:
    world = World()
    world.serve()
    assert condition(world) == ("Unknown", "OlderSidecar")
    assert world.reason() == "Available"


def test_a_new_leader_keeps_what_is_written_until_sidecars_have_reported() -> None:
    world = served(replicas=2)
    before = world.status
    world.live.sidecars.clear()
    world.later()
    assert world.status["configuredReplicas"] == before["configuredReplicas"] == 2
    assert condition(world) == ("True", "UpToDate")


def test_a_new_number_of_replicas_is_no_new_configuration() -> None:
    world = served()
    [before] = copy.deepcopy(configurations(world))
    world.change(replicas=5)
    world.settle()
    assert configurations(world)[0]["data"] == before["data"]


def test_a_change_back_is_newer_than_the_change() -> None:
    world = served()
    [first] = copy.deepcopy(configurations(world))
    world.change(models=[model(targets={"latencyMilliseconds": 50})])
    world.settle()
    world.change(models=[model()])
    world.settle()
    [last] = configurations(world)
    generations = [json.loads(text_of(each))["metadata"]["generation"] for each in (first, last)]
    assert generations == [1, 3]
    assert json.loads(text_of(first))["spec"] == json.loads(text_of(last))["spec"]


def test_what_somebody_wrote_into_the_configuration_goes_again() -> None:
    world = served()
    [config] = configurations(world)
    world.api.put(CONFIG_MAP, config | {"data": {"deployment.json": "{}"}})
    world.settle()
    assert json.loads(text_of(configurations(world)[0]))["spec"]["models"][0]["name"] == "recognizer"


def test_pods_that_are_yet_to_be_replaced_serve_by_the_newest_targets_too() -> None:
    """Of models that are no longer there they keep what they have."""
    world = World(deployment(models=[model(), model("gone", targets={"latencyMilliseconds": 33})]))
    world.serve()
    world.change(models=[model(batching={"mode": "Whole"}, targets={"latencyMilliseconds": 50})])
    world.settle()
    found = [json.loads(text_of(each))["spec"]["models"] for each in configurations(world)]
    assert len(found) == 2
    [old] = [models for models in found if len(models) == 2]
    assert [each["targets"]["latencyMilliseconds"] for each in old] == [50, 33]


@pytest.fixture
def before_live_fields(monkeypatch: pytest.MonkeyPatch) -> World:
    """Serves as a version left it in which no field was live."""
    for module in (template_choice, children):
        monkeypatch.setattr(module, "LIVE_FIELDS", ())
    world = World()
    world.serve()
    for module in (template_choice, children):
        monkeypatch.setattr(module, "LIVE_FIELDS", LIVE_FIELDS)
    return world


def test_pods_of_a_version_without_live_fields_stay_as_they_are(before_live_fields: World) -> None:
    world = before_live_fields
    before = copy.deepcopy(world.api.all(DEPLOYMENT)), copy.deepcopy(configurations(world))
    assert before[1][0]["immutable"]
    world.settle()
    assert (world.api.all(DEPLOYMENT), configurations(world)) == before
    assert condition(world) == ("True", "UpToDate")


def test_their_first_change_of_a_target_replaces_them_and_the_next_one_does_not(before_live_fields: World) -> None:
    world = before_live_fields
    world.change(models=[model(targets={"latencyMilliseconds": 50})])
    world.settle()
    world.serve()
    after = copy.deepcopy(world.api.all(DEPLOYMENT))
    world.change(models=[model(targets={"latencyMilliseconds": 60})])
    world.settle()
    assert [each["spec"] for each in world.api.all(DEPLOYMENT)] == [each["spec"] for each in after]
    names = [each["metadata"]["name"] for each in configurations(world) if not each.get("immutable")]
    assert len(names) == 1
    assert world.api.get(CONFIG_MAP, NAMESPACE, names[0]) is not None
