"""What kstatus (so Flux) and Argo CD read of a ModelDeployment, in every phase that it can be in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import DEPLOYMENT, MODEL_DEPLOYMENT, POD, Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.reconcile.live_state import Rejection
from batchwright_worker.api.names import ANNOTATION_WAITING
from tests.deployments.deployment_objects import deployment, emulated, model, state
from tests.deployments.deployment_world import KEY, World, conditions
from tests.deployments.kstatus import kstatus
from tests.manifests.argocd import argo_health

ON_ITS_WAY, FINE, BROKEN = ("InProgress", "Progressing"), ("Current", "Healthy"), ("Failed", "Degraded")
HOURS_S = 7200.0
CRASHES = {"name": "runtime", "restartCount": 9, "ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}


def read(world: World) -> tuple[str, str]:
    """kstatus's verdict and Argo CD's; exactly one of the three conditions that kstatus knows is True."""
    found = conditions(world)
    assert sorted(found[each] for each in ("Ready", "Reconciling", "Stalled")) == ["False", "False", "True"]
    return kstatus(world.raw), argo_health("ModelDeployment", world.raw)["status"]


def crash(world: World, count: int) -> None:
    """This many more pods crash from now on."""
    serving = [pod for pod in world.api.pods() if find(pod["status"].get("conditions"), "Ready")["status"] == "True"]
    for pod in serving[:count]:
        broken = world.api.start(pod, ready=False)
        world.api.put(POD, broken | {"status": broken["status"] | {"containerStatuses": [CRASHES]}})
    world.settle()


def start(world: World, count: int) -> None:
    """All pods are made; this many become ready, and the others crash."""
    world.settle()
    world.api.roll_out()
    for index, pod in enumerate(list(world.api.pods())):
        placed = world.api.start(world.api.place(pod, "node-a"), ready=index < count)
        world.hear(placed, state())
        if index >= count:
            world.api.put(POD, placed | {"status": placed["status"] | {"containerStatuses": [CRASHES]}})
    world.settle()


def controller_says(world: World, reason: str, *, at: float) -> None:
    """The Deployment controller's condition Progressing."""
    [child] = world.api.all(DEPLOYMENT)
    told = {"type": "Progressing", "status": "True", "reason": reason, "lastUpdateTime": rfc3339(at)}
    world.api.put(DEPLOYMENT, child | {"status": child["status"] | {"conditions": [told]}})
    world.settle()


def test_from_its_creation_until_it_serves() -> None:
    world = World(deployment(replicas=2))
    assert (kstatus(world.raw), argo_health("ModelDeployment", world.raw)["status"]) == ON_ITS_WAY
    world.settle()
    assert read(world) == ON_ITS_WAY
    world.serve()
    assert read(world) == FINE
    assert conditions(world) == conditions(world) | {"Available": "True", "Progressing": "True"}


def test_one_bad_pod_of_a_hundred_is_no_outage() -> None:
    world = World(deployment(replicas=100))
    world.serve()
    crash(world, 1)
    world.api.now += HOURS_S
    world.settle()
    assert read(world) == FINE
    assert (conditions(world)["Available"], world.status["readyReplicas"]) == ("True", 99)
    message = find(world.status["conditions"], "Ready")["message"]
    assert message.startswith("99 of 100 replicas ready; pod ocr-cpu-")
    assert "ends again and again" in message


def test_too_few_replicas_are_an_outage_that_is_stalled_after_the_deadline_and_recovers() -> None:
    world = World(deployment(replicas=100))
    world.serve()
    crash(world, 25)
    assert (read(world), conditions(world)["Available"]) == (FINE, "True")
    crash(world, 1)
    assert (read(world), conditions(world)["Available"]) == (ON_ITS_WAY, "False")
    assert world.reason() == "CrashLooping"
    world.late()
    assert (read(world), conditions(world)["Available"]) == (BROKEN, "False")
    assert find(world.status["conditions"], "Progressing")["reason"] == "ProgressDeadlineExceeded"
    before = world.api.writes
    world.api.now += HOURS_S
    world.settle()
    assert (read(world), world.api.writes) == (BROKEN, before)
    world.serve()
    assert (read(world), conditions(world)["Available"]) == (FINE, "True")


def test_a_replica_that_gets_ready_is_progress_and_starts_the_deadline_anew() -> None:
    world = World(deployment(replicas=4))
    start(world, 1)
    world.late()
    assert read(world) == BROKEN
    bad = next(pod for pod in world.api.pods() if find(pod["status"]["conditions"], "Ready")["status"] == "False")
    world.api.start(bad)
    world.settle()
    assert read(world) == ON_ITS_WAY
    world.api.now += 599
    world.settle()
    assert read(world) == ON_ITS_WAY
    world.api.now += 1
    world.settle()
    assert read(world) == BROKEN


def test_a_rollout_whose_last_pod_never_comes_is_stalled_though_available() -> None:
    world = World(deployment(replicas=100))
    start(world, 99)
    assert (read(world), conditions(world)["Available"]) == (ON_ITS_WAY, "True")
    world.late()
    assert (read(world), conditions(world)["Available"]) == (BROKEN, "True")


def test_a_slow_rollout_that_moves_on_is_never_stalled() -> None:
    world = World(deployment(replicas=8))
    start(world, 1)
    for _ in range(10):
        world.api.now += 300
        controller_says(world, "ReplicaSetUpdated", at=world.api.now)
        assert read(world) == ON_ITS_WAY
    world.late()
    assert read(world) == BROKEN


def test_more_replicas_than_there_is_room_for_are_not_stalled_while_those_before_serve() -> None:
    world = World(deployment(replicas=10))
    world.serve()
    world.change(replicas=12)
    start(world, 10)
    controller_says(world, "NewReplicaSetAvailable", at=world.api.now)
    world.api.now += HOURS_S
    world.settle()
    assert (read(world), conditions(world)["Available"]) == (ON_ITS_WAY, "True")


def test_who_waits_for_our_own_benchmark_is_not_stalled() -> None:
    world = World()
    world.settle()
    world.api.roll_out()
    [pod] = world.api.pods()
    notes = pod["metadata"]["annotations"] | {ANNOTATION_WAITING: "AwaitingBenchmark: node-a is being measured"}
    world.api.put(POD, pod | {"metadata": pod["metadata"] | {"annotations": notes}})
    world.api.now += HOURS_S
    world.settle()
    assert (read(world), world.reason()) == (ON_ITS_WAY, "AwaitingBenchmark")


@pytest.mark.parametrize(("is_final", "first"), [(True, BROKEN), (False, ON_ITS_WAY)])
def test_a_refusal_is_stalled_at_once_where_it_is_final_and_later_where_a_quota_may_be_raised(
    is_final: bool, first: tuple[str, str]
) -> None:
    world = World()
    world.live.rejections[KEY] = Rejection(what="Service ocr", message="no", at=0, is_final=is_final)
    world.settle()
    assert (read(world), world.reason()) == (first, "Rejected")
    world.late()
    assert read(world) == BROKEN
    world.live.rejections.clear()
    world.settle()
    assert read(world) == ON_ITS_WAY


def test_a_change_that_the_operator_has_not_seen_yet_is_on_its_way() -> None:
    world = World()
    world.serve()
    world.change(replicas=2)
    assert read(world) == ON_ITS_WAY


def test_a_new_generation_has_its_own_deadline() -> None:
    world = World()
    start(world, 0)
    world.late()
    assert read(world) == BROKEN
    world.change(queueOrder="Oldest")
    world.settle()
    assert read(world) == ON_ITS_WAY


def test_a_clock_that_is_set_back_makes_nothing_late_and_nothing_endless() -> None:
    world = World()
    start(world, 0)
    world.api.now -= HOURS_S
    world.settle()
    assert read(world) == ON_ITS_WAY
    due_s = world.decide().requeue_after_s
    assert due_s is not None
    assert due_s <= 600


def nothing_common(world: World) -> None:
    world.change(models=[model("a", emulated("cpu")), model("b", emulated())])


def no_such_spec(world: World) -> None:
    world.change(models=[{"name": "x"}])


@pytest.mark.parametrize(("spoil", "available"), [(nothing_common, "True"), (no_such_spec, "Unknown")])
def test_what_only_another_spec_helps_against_is_stalled_at_once(
    spoil: Callable[[World], None], available: str
) -> None:
    world = World()
    world.serve()
    spoil(world)
    world.settle()
    assert (read(world), conditions(world)["Available"]) == (BROKEN, available)
    assert conditions(world)["Progressing"] == "False"


def test_being_deleted() -> None:
    world = World()
    world.serve()
    raw: Raw = world.raw
    gone = raw | {"metadata": raw["metadata"] | {"deletionTimestamp": rfc3339(world.api.now)}}
    world.api.put(MODEL_DEPLOYMENT, gone)
    assert (kstatus(gone), argo_health("ModelDeployment", gone)["status"]) == ("Terminating", "Progressing")


@pytest.mark.parametrize(
    ("replicas", "strategy", "bad", "available"),
    [
        (1, {}, 1, "False"),
        (3, {}, 1, "False"),
        (4, {}, 1, "True"),
        (4, {}, 2, "False"),
        (2, {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}, 1, "True"),
        (10, {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}}, 5, "True"),
        (10, {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}}, 6, "False"),
        (1, {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}, 1, "False"),
        (10, {"type": "Recreate"}, 1, "False"),
    ],
)
def test_it_is_available_while_no_more_are_missing_than_its_strategy_allows(
    replicas: int, strategy: Any, bad: int, available: str
) -> None:
    world = World(deployment(replicas=replicas, **({"strategy": strategy} if strategy else {})))
    world.serve()
    crash(world, bad)
    assert conditions(world)["Available"] == available
