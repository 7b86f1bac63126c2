"""A change of accelerator: what serves goes only when as much serves elsewhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.deployments.kind_change import KindInUse, leaving
from batchwright_operator.deployments.kind_split import RETRY_S
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, DEPLOYMENT, MODEL_DEPLOYMENT, POD, REPLICA_SET, Raw
from batchwright_worker.api.names import ANNOTATION_KIND, COMPONENT_MODEL, LABEL_COMPONENT, LABEL_DEPLOYMENT
from tests.deployments.deployment_objects import (
    EMULATED,
    NAMESPACE,
    NVIDIA,
    deployment,
    emulated,
    model,
    profile,
    state,
)
from tests.deployments.deployment_world import World
from tests.deployments.kstatus import kstatus

CPU, GPU = emulated("cpu"), emulated(NVIDIA)


def gpus(count: int) -> Raw:
    return profile("gpu-1", NVIDIA, 400, devices=count)


def on_cpus(replicas: int, **spec: object) -> World:
    """Replicas that serve on CPUs; the deployment knows no other kind yet."""
    world = World(deployment(models=[model("echo", CPU)], replicas=replicas, **spec))
    world.api.put(ACCELERATOR_PROFILE, profile("cpu-1", "cpu", 10))
    world.serve()
    return world


def ready(world: World) -> dict[str, int]:
    """Kind -> pods that serve."""
    found: dict[str, int] = {}
    for pod in world.api.pods():
        if any(each["status"] == "True" for each in pod["status"].get("conditions", ())):
            kind = pod["metadata"]["annotations"][ANNOTATION_KIND]
            found[kind] = found.get(kind, 0) + 1
    return found


def asked(world: World) -> dict[str, int]:
    """Kind -> replicas asked for."""
    found = world.api.all(DEPLOYMENT, namespace=NAMESPACE)
    return {each["metadata"]["annotations"][ANNOTATION_KIND]: each["spec"]["replicas"] for each in found}


def start_one(world: World, kind: str) -> bool:
    """One more pod of this kind is placed and serves."""
    for pod in list(world.api.pods()):
        if pod["metadata"]["annotations"][ANNOTATION_KIND] == kind and "nodeName" not in pod["spec"]:
            world.hear(world.api.start(world.api.place(pod, "node-b")), state())
            return True
    return False


def step(world: World) -> None:
    """The operator decides until it is settled, and the Deployment controller acts."""
    world.settle()
    world.api.roll_out()


def test_a_kind_that_the_spec_names_no_more_goes_as_its_successor_gets_ready() -> None:
    world = on_cpus(4)
    world.change(models=[model("echo", GPU)])
    step(world)
    assert asked(world) == {"cpu": 4, NVIDIA: 4}
    seen = [ready(world)]
    while start_one(world, NVIDIA):
        step(world)
        seen.append(ready(world))
    assert seen == [
        {"cpu": 4},
        {"cpu": 3, NVIDIA: 1},
        {"cpu": 2, NVIDIA: 2},
        {"cpu": 1, NVIDIA: 3},
        {NVIDIA: 4},
    ]
    assert asked(world) == {NVIDIA: 4}
    step(world)
    assert kstatus(world.raw) == "Current"


def test_a_successor_that_never_gets_ready_takes_nothing_away() -> None:
    world = on_cpus(2)
    world.change(models=[model("echo", GPU)])
    for _ in range(3):
        step(world)
        world.api.now += 3600
    assert ready(world) == {"cpu": 2}
    assert asked(world) == {"cpu": 2, NVIDIA: 2}
    assert kstatus(world.raw) != "Current"


def test_what_does_not_serve_is_not_kept() -> None:
    world = World(deployment(models=[model("echo", CPU)], replicas=3))
    step(world)
    start_one(world, "cpu")
    step(world)
    world.change(models=[model("echo", GPU)])
    step(world)
    assert asked(world) == {"cpu": 1, NVIDIA: 3}


def test_fewer_replicas_need_not_wait_for_a_successor() -> None:
    world = on_cpus(4)
    world.change(models=[model("echo", GPU)], replicas=2)
    step(world)
    assert asked(world) == {"cpu": 2, NVIDIA: 2}


def test_a_change_back_stops_the_successor() -> None:
    world = on_cpus(2)
    world.change(models=[model("echo", GPU)])
    step(world)
    world.change(models=[model("echo", CPU)])
    step(world)
    assert (asked(world), ready(world)) == ({"cpu": 2}, {"cpu": 2})


def test_the_strategy_recreate_stops_them_first() -> None:
    world = on_cpus(2, strategy={"type": "Recreate"})
    world.change(models=[model("echo", GPU)])
    step(world)
    assert asked(world) == {NVIDIA: 2}


# --- a kind that the user prefers


def either(replicas: int, **placement: object) -> World:
    """Replicas that serve on CPUs while there is no GPU; their models could run on both."""
    models = [model("echo", CPU, GPU)]
    world = World(deployment(models=models, replicas=replicas, placement=dict(placement)))
    world.api.put(ACCELERATOR_PROFILE, profile("cpu-1", "cpu", 10))
    world.serve()
    assert asked(world) == {"cpu": replicas}
    return world


def test_without_a_preference_a_replica_stays_on_its_kind() -> None:
    world = either(4)
    world.api.put(ACCELERATOR_PROFILE, gpus(8))
    step(world)
    assert asked(world) == {"cpu": 4}


def test_replicas_move_to_a_preferred_kind_wave_by_wave_and_never_fewer_serve() -> None:
    world = either(8, preference=[NVIDIA, "cpu"])
    world.api.put(ACCELERATOR_PROFILE, gpus(8))
    step(world)
    assert asked(world) == {"cpu": 8, NVIDIA: 2}
    for moved in range(1, 9):
        assert start_one(world, NVIDIA)
        step(world)
        assert sum(ready(world).values()) == 8
        assert ready(world).get(NVIDIA) == moved
    assert asked(world) == {NVIDIA: 8}
    step(world)
    assert kstatus(world.raw) == "Current"


def test_not_more_move_than_there_is_room_for() -> None:
    world = either(4, preference=[NVIDIA])
    world.api.put(ACCELERATOR_PROFILE, gpus(2))
    for _ in range(5):
        step(world)
        start_one(world, NVIDIA)
    assert asked(world) == {"cpu": 2, NVIDIA: 2}


def test_devices_of_other_deployments_are_no_room() -> None:
    world = either(1, preference=[NVIDIA])
    world.api.put(ACCELERATOR_PROFILE, gpus(1))
    elsewhere = {"namespace": "elsewhere", "name": "other"}
    owner: Raw = world.api.put(MODEL_DEPLOYMENT, {"metadata": elsewhere})
    for resource, kind in ((DEPLOYMENT, "ModelDeployment"), (REPLICA_SET, "Deployment"), (POD, "ReplicaSet")):
        reference = {"kind": kind, "name": "other", "uid": owner["metadata"]["uid"], "controller": True}
        if resource != POD:
            owner = world.api.put(resource, {"metadata": elsewhere | {"ownerReferences": [reference]}})
    other = {
        "metadata": {**elsewhere, "annotations": {ANNOTATION_KIND: NVIDIA}, "ownerReferences": [reference],
                     "labels": {LABEL_COMPONENT: COMPONENT_MODEL, LABEL_DEPLOYMENT: "other"}},
        "spec": {"containers": [{"name": "runtime", "resources": {"limits": {NVIDIA: "1"}}}]},
        "status": {},
    }  # fmt: skip
    world.api.put(POD, other)
    world.settle()
    assert asked(world) == {"cpu": 1}
    assert (world.decide().requeue_after_s or 0.0) <= 60.0
    world.api.remove(MODEL_DEPLOYMENT, "elsewhere", "other")
    step(world)
    assert asked(world) == {"cpu": 1, NVIDIA: 1}


def test_a_move_that_finds_no_place_is_given_up_and_tried_again_much_later() -> None:
    world = either(1, preference=[NVIDIA])
    world.api.put(ACCELERATOR_PROFILE, gpus(1))
    step(world)
    assert asked(world) == {"cpu": 1, NVIDIA: 1}
    world.api.now += 31
    step(world)
    assert (asked(world), ready(world)) == ({"cpu": 1}, {"cpu": 1})
    world.api.now += RETRY_S + 1
    step(world)
    assert asked(world) == {"cpu": 1, NVIDIA: 1}


def kind_in_use(count: int, ready: int) -> KindInUse:
    return KindInUse(count=count, ready=min(count, ready))


uses = st.dictionaries(
    st.sampled_from(["cpu", EMULATED, NVIDIA]),
    st.builds(
        lambda count, ready: KindInUse(count=count, ready=min(count, ready)), st.integers(0, 9), st.integers(0, 9)
    ),
)
shares_of = st.dictionaries(st.sampled_from(["cpu", EMULATED]), st.integers(0, 9))


@given(uses, shares_of)
def test_as_many_serve_as_before_up_to_the_number_wanted(uses: dict[str, KindInUse], shares: dict[str, int]) -> None:
    wanted = sum(shares.values())
    kept = leaving(wanted, shares, uses)
    served = sum(min(use.ready, shares.get(kind, 0) + kept.get(kind, 0)) for kind, use in uses.items())
    assert served == min(served, sum(use.ready for use in uses.values()))
    assert served >= min(wanted, sum(use.ready for use in uses.values()))
    assert all(0 < count <= uses[kind].count - shares.get(kind, 0) for kind, count in kept.items())
    assert sum(kept.values()) <= wanted
