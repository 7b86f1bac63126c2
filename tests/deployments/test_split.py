"""How replicas are split over kinds of accelerators."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.api.model_deployment import parse
from batchwright_operator.deployments.kind_split import CurrentReplicas, Supply, split
from batchwright_operator.deployments.observe import ObservedDeployment, facts_of
from batchwright_operator.deployments.plan import plan_replicas
from batchwright_operator.deployments.profiles import Profiles
from batchwright_operator.kube.objects import Raw
from batchwright_operator.settings import Settings
from tests.deployments.deployment_objects import EMULATED, PVC_ARTIFACT, deployment, model, profile

KINDS = ["cpu", "gpu", "npu"]
GPU = Supply(capacity=400.0, max_replicas=2, processors=2)
CPU = Supply(capacity=100.0, processors=4)
NONE = Supply()


@pytest.mark.parametrize(
    ("replicas", "supplies", "current", "expected"),
    [
        pytest.param(3, {"gpu": GPU}, {}, {"cpu": 0, "gpu": 3}, id="a kind without a node comes last"),
        pytest.param(2, {"gpu": GPU, "cpu": CPU}, {}, {"cpu": 0, "gpu": 2}, id="the most capacity per replica first"),
        pytest.param(4, {"gpu": GPU, "cpu": CPU}, {}, {"cpu": 2, "gpu": 2}, id="not more than there are devices"),
        pytest.param(
            2,
            {"gpu": GPU, "cpu": CPU},
            {"cpu": CurrentReplicas(count=2)},
            {"cpu": 2, "gpu": 0},
            id="a replica stays where it is",
        ),
        pytest.param(
            2,
            {"gpu": GPU, "cpu": CPU},
            {"gpu": CurrentReplicas(count=2, stuck=1)},
            {"cpu": 1, "gpu": 1},
            id="only the replica without a place moves",
        ),
        pytest.param(
            1,
            {"gpu": GPU, "cpu": CPU},
            {"gpu": CurrentReplicas(excluded=True)},
            {"cpu": 1, "gpu": 0},
            id="not to an excluded kind",
        ),
        pytest.param(
            1,
            {"gpu": GPU, "cpu": CPU},
            {"gpu": CurrentReplicas(count=1, stuck=1), "cpu": CurrentReplicas(excluded=True)},
            {"cpu": 0, "gpu": 1},
            id="stays when no kind has a place",
        ),
        pytest.param(
            1,
            {"gpu": GPU, "cpu": CPU},
            {"gpu": CurrentReplicas(count=2, stuck=1)},
            {"cpu": 0, "gpu": 1},
            id="the replica without a place is given back first",
        ),
        pytest.param(0, {"cpu": CPU}, {"cpu": CurrentReplicas(count=3)}, {"cpu": 0, "gpu": 0}, id="to zero"),
        pytest.param(3, {}, {}, {"cpu": 2, "gpu": 1}, id="an unknown cluster: shared out"),
    ],
)
def test_split(
    replicas: int, supplies: dict[str, Supply], current: dict[str, CurrentReplicas], expected: dict[str, int]
) -> None:
    assert split(replicas, ["cpu", "gpu"], supplies, current) == expected


def profiles(nodes: int, slots: int, **schedulable: str) -> tuple[Raw, ...]:
    """Nodes with so many emulated devices of 100 images/s each, and a CPU of 50."""
    found = []
    for i in range(nodes):
        raw = profile(f"n{i}", EMULATED, 100.0)
        raw["status"]["processors"][0]["slots"] = slots
        raw["status"]["processors"].append({"kind": "cpu", "capacityImagesPerSecond": "50", "reason": "Benchmarked"})
        if state := schedulable.get(f"n{i}"):
            raw["status"]["conditions"] = [{"type": "Schedulable", "status": state}]
        found.append(raw)
    return tuple(found)


def planned(replicas: int, profiles: tuple[Raw, ...], count: int = 1) -> dict[str, int]:
    """Replicas per kind of a new deployment for both kinds."""
    both = model("m", PVC_ARTIFACT, {**PVC_ARTIFACT, "accelerator": EMULATED})
    runtimes = [{"accelerator": "cpu"}, {"accelerator": EMULATED, "count": count}]
    raw = deployment(models=[both], runtimes=runtimes, replicas=replicas)
    observed = ObservedDeployment(raw=raw, settings=Settings(), token="t", profiles=Profiles(profiles))
    return plan_replicas(facts_of(observed.read(0.0), parse(raw)), 0.0, 30.0).replicas


@pytest.mark.parametrize(
    ("replicas", "count", "on_cpu", "on_device"),
    [(8, 1, 0, 8), (32, 1, 0, 32), (40, 1, 8, 32), (16, 2, 0, 16), (4, 8, 0, 4)],
)
def test_all_devices_of_a_node_count(replicas: int, count: int, on_cpu: int, on_device: int) -> None:
    assert planned(replicas, profiles(4, 8), count) == {"cpu": on_cpu, EMULATED: on_device}


def test_devices_of_nodes_that_take_no_pods_do_not_count() -> None:
    assert planned(32, profiles(4, 8, n0="False", n1="True")) == {"cpu": 8, EMULATED: 24}


def test_no_kind_is_no_replica() -> None:
    assert split(3, [], {}, {}) == {}


helds = st.builds(
    lambda count, stuck, excluded: CurrentReplicas(count=count, stuck=min(stuck, count), excluded=excluded),
    st.integers(0, 6),
    st.integers(0, 6),
    st.booleans(),
)
supply = st.builds(
    Supply,
    capacity=st.floats(0, 1e4),
    max_replicas=st.none() | st.integers(0, 8),
    processors=st.integers(0, 4),
)
supplies_of = st.dictionaries(st.sampled_from(KINDS), supply)
helds_of = st.dictionaries(st.sampled_from(KINDS), helds)


@given(st.integers(0, 20), supplies_of, helds_of)
def test_the_replicas_add_up_and_are_never_negative(
    replicas: int, supplies: dict[str, Supply], current: dict[str, CurrentReplicas]
) -> None:
    plan = split(replicas, KINDS, supplies, current)
    assert sum(plan.values()) == replicas
    assert min(plan.values()) >= 0


@given(st.integers(0, 20), supplies_of, supplies_of, helds_of)
def test_a_placed_slot_is_sticky_whatever_happens_to_supplies(
    more: int, before: dict[str, Supply], after: dict[str, Supply], current: dict[str, CurrentReplicas]
) -> None:
    plan = split(more, KINDS, before, current)
    held = {kind: CurrentReplicas(count=count) for kind, count in plan.items()}
    assert split(more, KINDS, after, held) == plan
    grown = split(more + 3, KINDS, after, held)
    assert all(grown[kind] >= plan[kind] for kind in KINDS)


@given(supplies_of, helds_of)
def test_replicas_that_move_leave_only_kinds_that_refused(
    supplies: dict[str, Supply], current: dict[str, CurrentReplicas]
) -> None:
    total = sum(each.count for each in current.values())
    plan = split(total, KINDS, supplies, current)
    for kind, held in current.items():
        assert held.count - held.stuck <= plan[kind]
        if held.stuck or held.excluded:
            assert plan[kind] <= held.count
