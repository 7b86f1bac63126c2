"""Upgrades of operator, worker image, settings and CRD: pods stay as they are, what must roll waits for its turn."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchwright_operator.deployments import template_choice
from batchwright_operator.deployments.reconciler import ModelDeploymentReconciler
from batchwright_operator.deployments.shape import shape
from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    MODEL_DEPLOYMENT,
    PVC,
    Raw,
)
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.rendering.objects import digest
from batchwright_operator.settings import Resources, RuntimeEntry, Settings
from batchwright_worker.api.deployment import parse_spec
from tests.deployments.deployment_objects import EMULATED, NAMESPACE, deployment, emulated, model, state
from tests.deployments.deployment_world import World
from tests.deployments.tiny_api import TinyApi

GOLDEN = Path(__file__).parent / "golden"


def templates(world: World) -> dict[str, Any]:
    return {each["metadata"]["name"]: each["spec"]["template"] for each in world.api.all(DEPLOYMENT)}


def upgraded(world: World, **settings: Any) -> None:
    """Another operator takes over."""
    world.reconciler = ModelDeploymentReconciler(Settings(**settings), world.live)


OTHER_SETTINGS: list[dict[str, Any]] = [
    {"worker_image": "worker:2"},
    {"sidecar_env": {"A": "1"}},
    {"sidecar_resources": Resources(requests={"cpu": "2"})},
    {"runtime_resources": Resources(requests={"cpu": "3"})},
    {"runtime_table": [RuntimeEntry(image="other:1")]},
    {"image_pull_policy": "Always"},
]


@pytest.mark.parametrize("settings", OTHER_SETTINGS, ids=lambda each: next(iter(each)))
def test_a_setting_restarts_no_pod_and_new_deployments_have_it(settings: dict[str, Any]) -> None:
    world = World()
    world.serve()
    before = copy.deepcopy(world.api.objects)
    upgraded(world, **settings)
    assert world.api.perform(world.decide()) == 0
    assert world.api.objects == before
    fresh = World()
    upgraded(fresh, **settings)
    fresh.settle()
    assert templates(fresh) != templates(world)


def test_a_change_by_the_user_takes_over_what_the_operator_makes_now() -> None:
    world = World()
    world.serve()
    upgraded(world, worker_image="worker:2")
    world.change(queueOrder="Oldest")
    world.settle()
    assert "worker:2" in str(templates(world))


def test_the_defaults_of_a_newer_crd_restart_no_pod_and_are_no_news_for_old_sidecars() -> None:
    world = World()
    world.serve()
    before = templates(world)
    [named] = world.raw["spec"]["models"]
    world.change(models=[named | {"batching": {"maxSize": 32, "newKnob": 5}, "newPart": {"x": 1}}], evict="LeastWorth")
    world.settle()
    assert templates(world) == before
    assert not any(word in str(world.api.all(CONFIG_MAP)) for word in ("newKnob", "newPart"))
    world.change(models=[named | {"batching": {"mode": "Whole"}}])
    world.settle()
    assert templates(world) != before


def as_of_0_1_0(world: World) -> None:
    """The cluster as a build before 0.1.0 leaves it: a template with the server's defaults, its configuration, and no
    revision."""
    for raw in world.api.all(CONTROLLER_REVISION):
        world.api.remove(CONTROLLER_REVISION, NAMESPACE, raw["metadata"]["name"])
    for raw in world.api.all(DEPLOYMENT):
        old = copy.deepcopy(raw)
        old["spec"]["template"]["spec"] |= {"dnsPolicy": "ClusterFirst", "restartPolicy": "Always"}
        old["spec"]["template"]["spec"]["initContainers"][0]["image"] = "worker:0.1.0"
        world.api.put(DEPLOYMENT, old)


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        ({}, False),
        ({"replicas": 3}, False),
        ({"evict": "LeastWorth"}, False),
        ({"placement": {"policy": "Forecast"}}, False),
        ({"placement": {"nodeSelector": {"disk": "fast"}}}, True),
        ({"pod": {"priorityClassName": "system-cluster-critical"}}, True),
        ({"pod": {"labels": {"team": "vision"}}}, True),
        ({"pod": {"securityContext": {"runAsUser": 1000}}}, True),
        ({"evict": "LeastRecentlyUsed"}, True),
    ],
    ids=str,
)
def test_the_pods_of_0_1_0_stay_until_the_user_changes_what_they_are_made_from(change: Raw, restarts: bool) -> None:
    """Also where the change was made while no operator ran."""
    world = World()
    world.settle()
    as_of_0_1_0(world)
    before = templates(world)
    world.change(**change)
    world.settle()
    assert (templates(world) != before) is restarts
    assert ("worker:0.1.0" in str(templates(world))) is not restarts
    assert world.api.perform(world.decide()) == 0


def test_another_kind_of_accelerator_restarts_no_pod_of_the_first() -> None:
    world = World(deployment(models=[model("echo", emulated("cpu"))], replicas=2))
    world.serve()
    before = templates(world)["ocr-cpu"]
    world.change(
        models=[model("echo", emulated("cpu"), emulated())],
        runtimes=[{"accelerator": "cpu"}, {"accelerator": EMULATED, "memoryBudgetBytes": 1 << 20}],
    )
    world.settle()
    assert templates(world)["ocr-cpu"] == before


def test_a_configuration_and_a_template_that_somebody_changed_come_back_as_they_were() -> None:
    world = World()
    world.serve()
    before, kept = templates(world), [each["data"] for each in world.api.all(CONFIG_MAP)]
    upgraded(world, worker_image="worker:2")
    for raw in [*world.api.all(CONFIG_MAP), *world.api.all(DEPLOYMENT)]:
        world.api.remove(CONFIG_MAP if raw["kind"] == "ConfigMap" else DEPLOYMENT, NAMESPACE, raw["metadata"]["name"])
    world.settle()
    assert (templates(world), [each["data"] for each in world.api.all(CONFIG_MAP)]) == (before, kept)


def test_going_back_to_an_older_spec_brings_back_its_template() -> None:
    world = World()
    world.serve()
    before = templates(world)
    world.change(queueOrder="Oldest")
    world.serve()
    upgraded(world, worker_image="worker:2")
    world.change(queueOrder="Balanced")
    world.settle()
    assert templates(world) == before
    found = world.api.all(CONTROLLER_REVISION)
    assert {each["data"]["spec"].get("queueOrder", ""): each["revision"] for each in found} == {"Oldest": 2, "": 3}


def test_the_history_is_bounded() -> None:
    world = World()
    for number in range(8):
        world.change(models=[model(), model(f"m{number}")], revisionHistoryLimit=3)
        world.serve(state())
    assert len(world.api.all(CONTROLLER_REVISION)) == 4
    world.change(revisionHistoryLimit=0)
    world.settle()
    assert len(world.api.all(CONTROLLER_REVISION)) == 1
    assert max(each["revision"] for each in world.api.all(CONTROLLER_REVISION)) == 8
    [child] = world.api.all(DEPLOYMENT)
    assert child["spec"]["revisionHistoryLimit"] == 0


# --- what must roll


class Cluster:
    """Several ModelDeployments that serve, and an operator that wants all of them upgraded."""

    def __init__(self, count: int, **settings: Any) -> None:
        self.api, self.live = TinyApi(), LiveState(control_key=b"key")
        self.names = [f"m{number}" for number in range(count)]
        self.api.put(PVC, {"metadata": {"name": "models", "namespace": NAMESPACE}})
        self.reconciler = ModelDeploymentReconciler(Settings(), self.live)
        for name in self.names:
            self.api.put(MODEL_DEPLOYMENT, deployment(name))
        self.visit()
        self.api.roll_out()
        self.visit()
        self.reconciler = ModelDeploymentReconciler(
            Settings(worker_image="worker:2", **{"upgrade_policy": "All", **settings}), self.live
        )

    def key(self, name: str) -> Key:
        return Key(reconciler="modeldeployment", namespace=NAMESPACE, name=name)

    def visit(self) -> int:
        """A pass over all of them, until nothing is written; the writes."""
        writes = 0
        for name in self.names * 3:
            observed = self.reconciler.observe(self.api, self.key(name))
            assert observed is not None
            writes += self.api.perform(self.reconciler.decide(observed, self.api.now))
        return writes

    def upgraded(self) -> list[str]:
        found = [each for each in self.api.all(DEPLOYMENT) if "worker:2" in str(each["spec"]["template"])]
        return [each["metadata"]["labels"]["batchwright.dev/deployment"] for each in found]

    def condition(self, name: str) -> Raw:
        found = self.api.get(MODEL_DEPLOYMENT, NAMESPACE, name)
        assert found is not None
        return dict(find(found["status"]["conditions"], "UpToDate"))


def test_so_many_at_a_time_are_rolled_out_and_the_next_when_all_pods_are_available() -> None:
    cluster = Cluster(5, upgrades_at_once=2)
    seen = []
    for _ in range(3):
        cluster.visit()
        assert cluster.visit() == 0
        seen.append(len(cluster.upgraded()))
        cluster.api.roll_out()
    assert seen == [2, 4, 5]
    cluster.visit()
    assert {cluster.condition(name)["status"] for name in cluster.names} == {"True"}


def test_an_upgrade_that_does_not_become_available_holds_up_the_others() -> None:
    cluster = Cluster(3)
    cluster.visit()
    [first] = cluster.upgraded()
    for raw in cluster.api.all(DEPLOYMENT):
        if raw["metadata"]["labels"]["batchwright.dev/deployment"] == first:
            status = raw["status"] | {"observedGeneration": raw["metadata"]["generation"], "availableReplicas": 0}
            cluster.api.put(DEPLOYMENT, raw | {"status": status})
    cluster.visit()
    assert cluster.upgraded() == [first]
    assert {cluster.condition(name)["reason"] for name in cluster.names} == {"UpToDate", "WaitsForItsTurn"}
    # nor does another operator that takes over then begin with the next one
    again = ModelDeploymentReconciler(Settings(worker_image="worker:2", upgrade_policy="All"), cluster.live)
    cluster.reconciler = again
    cluster.visit()
    assert cluster.upgraded() == [first]


def test_upgrades_pause_by_setting_and_are_held_by_annotation() -> None:
    paused = Cluster(2, upgrades_at_once=0)
    paused.visit()
    assert paused.upgraded() == []
    assert paused.condition("m0")["reason"] == "Paused"
    held = Cluster(2, upgrades_at_once=2)
    raw = held.api.get(MODEL_DEPLOYMENT, NAMESPACE, "m0")
    assert raw is not None
    notes = {"annotations": {"batchwright.dev/hold-upgrades": "true"}}
    held.api.put(MODEL_DEPLOYMENT, raw | {"metadata": raw["metadata"] | notes})
    held.visit()
    assert held.upgraded() == ["m1"]
    assert held.condition("m0")["reason"] == "Held"


def test_by_default_only_what_is_required_rolls(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(2, upgrade_policy="Required")
    assert cluster.visit() == 0
    monkeypatch.setattr(template_choice, "REQUIRED_VERSION", template_choice.TEMPLATE_VERSION + 1)
    cluster.visit()
    assert len(cluster.upgraded()) == 1


def test_a_change_that_makes_the_same_pods_rolls_nothing() -> None:
    """The runtime table of another kind: the pods of this one are as they would be made now."""
    cluster = Cluster(1, runtime_table=[RuntimeEntry(accelerator="nvidia.com/gpu", image="x:1")])
    cluster.reconciler = ModelDeploymentReconciler(
        Settings(upgrade_policy="All", runtime_table=[RuntimeEntry(accelerator="nvidia.com/gpu", image="x:1")]),
        cluster.live,
    )
    before = [each["spec"]["template"] for each in cluster.api.all(DEPLOYMENT)]
    cluster.visit()
    cluster.api.roll_out()
    cluster.visit()
    assert [each["spec"]["template"] for each in cluster.api.all(DEPLOYMENT)] == before
    assert cluster.condition("m0")["reason"] == "UpToDate"


def test_whose_turn_is_next_is_looked_at_when_the_one_before_is_through() -> None:
    cluster = Cluster(3)
    cluster.visit()
    [first] = cluster.upgraded()
    [changed] = [each for each in cluster.api.all(DEPLOYMENT) if each["metadata"]["name"] == f"{first}-cpu"]
    queued = {key.name for watch in cluster.reconciler.watches() if watch.resource == DEPLOYMENT
              for key in watch.keys(changed)}  # fmt: skip
    assert first in queued
    assert len(queued) == 2


# --- what keeps this true


def test_the_shape_has_no_defaults_and_only_what_pods_are_made_from() -> None:
    whole = parse_spec(deployment(replicas=3, queueOrder="Balanced", placement={"policy": "Forecast"})["spec"])
    assert shape(whole, "cpu") == shape(parse_spec(deployment()["spec"]), "cpu")
    other = parse_spec(deployment(queueOrder="Oldest")["spec"])
    assert shape(other, "cpu") != shape(whole, "cpu")


RENDERINGS: dict[int, dict[str, str]] = {
    2: {
        "claimed-devices": "01b9d6dab7",
        "client-certificates": "55394c5e29",
        "cpu-claim": "f41d2b73ab",
        "emulated": "d58bf46d99",
        "fetched": "9ef7aea3d7",
        "folder": "d70a7af3fe",
        "hatches": "b741dbd165",
        "image-volumes": "37cc4d2e48",
        "own-server": "ebb44e2a30",
        "texts": "4096cbb69d",
        "tls": "c268022045",
        "two-devices": "860916b588",
    }
}


def test_a_change_of_the_rendering_has_a_version_of_its_own() -> None:
    """Pod templates changed? Raise TEMPLATE_VERSION, and REQUIRED_VERSION if older pods do not work any more; then
    write the digests that are shown here. (A new sample only adds one.)"""
    found = {}
    for path in sorted(GOLDEN.glob("*.yaml")):
        bodies = [body for body in yaml.safe_load_all(path.read_text()) if body["kind"] == "Deployment"]
        found[path.stem] = digest([body["spec"]["template"] for body in bodies])
    assert {template_choice.TEMPLATE_VERSION: found} == RENDERINGS
