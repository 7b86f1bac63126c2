"""Placement as a table: facts in the cache -> patches, deletes, events, waits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, MODEL_DEPLOYMENT, NODE, POD, PV, PVC, Raw
from batchwright_operator.placement import receipts
from batchwright_operator.placement.reconciler import KEY, PlacementReconciler
from batchwright_operator.reconcile.decisions import Decision, Delete, Patch
from batchwright_operator.reconcile.live_state import LiveState, Received, Sample
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import DeviceState, ModelState, Receipt, SidecarState
from batchwright_worker.api.names import (
    ANNOTATION_EMULATED_DEVICE,
    ANNOTATION_LOAD_TABLE,
    ANNOTATION_RECEIPT,
    ANNOTATION_WAITING,
    KIND_EMULATED,
    LABEL_BENCHMARK_OPT_OUT,
    SCHEDULING_GATE,
)
from tests.placement.placement_objects import (
    NOW,
    Facts,
    applied,
    bound_to,
    deployment,
    forged,
    node,
    pod,
    profile,
    unschedulable,
)


class World:
    """A cache, samples and the reconciler; `settle` lets decisions take effect as the API server would."""

    def __init__(self, nodes: list[Raw], profiles: list[Raw], *, deployments: list[Raw] | None = None) -> None:
        self.facts = Facts({NODE: nodes, ACCELERATOR_PROFILE: profiles, MODEL_DEPLOYMENT: deployments or [deployment()],
                            POD: []})  # fmt: skip
        self.live = LiveState()
        self.reconciler = PlacementReconciler(Settings(), self.live)

    def sample(
        self, name: str, utilization: float, memory: float = 0.0, *, age_s: float = 1.0, kind: str = "cpu"
    ) -> None:
        self.live.samples[name, kind] = Sample(utilization=utilization, memory_utilization=memory, taken_at=NOW - age_s)

    def decide(self, *pods: Raw, now: float = NOW) -> Decision:
        for each in pods:
            self.facts.put(POD, each)
        observed = self.reconciler.observe(self.facts, KEY)
        return Decision() if observed is None else self.reconciler.decide(observed, now)

    def settle(self, decision: Decision, **how: Any) -> None:
        for action in decision.actions:
            assert isinstance(action, Patch)
            raw = self.facts.get(POD, "user", action.name)
            assert raw is not None
            self.facts.put(POD, applied(raw, action, **how))


def two_nodes(**more: Any) -> World:
    """fast (100 images/s) and slow (50), both idle and sampled."""
    world = World([node("fast"), node("slow")], [profile("fast", "100.0"), profile("slow", "50.0")], **more)
    world.sample("fast", 0.0)
    world.sample("slow", 0.0)
    return world


def bound(decision: Decision) -> dict[str, str]:
    return {each.name: bound_to(each) for each in decision.actions if isinstance(each, Patch) and "spec" in each.patch}


def only_patch(decision: Decision) -> Patch:
    (patch,) = decision.actions
    assert isinstance(patch, Patch)
    return patch


def waiting(decision: Decision) -> list[str]:
    return [
        each.patch["metadata"]["annotations"][ANNOTATION_WAITING]
        for each in decision.actions
        if isinstance(each, Patch) and "spec" not in each.patch
    ]


def test_one_patch_binds_explains_and_removes_the_gate() -> None:
    decision = two_nodes().decide(pod("a"))
    (patch,) = decision.actions
    assert isinstance(patch, Patch)
    assert (patch.style, patch.resource_version, bound_to(patch)) == ("strategic", "7", "fast")
    assert patch.patch["spec"]["schedulingGates"] == [{"$patch": "delete", "name": SCHEDULING_GATE}]
    receipt = receipts.parse({"metadata": patch.patch["metadata"]})
    assert receipt is not None
    assert (receipt.node, receipt.processor, receipt.load) == ("fast", "cpu", "0.00")
    assert [(each.node, each.load) for each in receipt.runners_up] == [("slow", "0.50")]
    assert receipt.policy == "ThroughputLeft"
    assert receipts.describe(receipt) == (
        "fast: load by throughput left 0.00 = utilization 0.00 + capacity 0.00; slow lost by 0.50: capacity; "
        "state: one sample, 1 s old"
    )
    assert (receipt.state_seconds, receipt.state_age_seconds) == (0.0, 1.0)
    (event,) = decision.events
    assert (event.reason, event.type, event.regarding["metadata"]["name"]) == ("Placed", "Normal", "ocr")
    assert "slow lost by 0.50: capacity" in event.message


def test_a_placed_pod_is_told_the_load_table_of_its_processor() -> None:
    """On the pod, not in the template: a processor that is measured anew must replace no pod."""
    for name, rate, busy in (("fast", 100.0, 0.0), ("slow", 50.0, 0.9)):
        world = two_nodes()
        world.sample("fast", busy)
        (patch,) = world.decide(pod("a")).actions
        assert isinstance(patch, Patch)
        assert bound_to(patch) == name
        table = msgspec.json.decode(patch.patch["metadata"]["annotations"][ANNOTATION_LOAD_TABLE])
        assert table == [{"batchSize": 8, "imagesPerSecond": rate, "maxServices": 4}]


def test_a_pod_on_an_unmeasured_processor_is_told_none() -> None:
    world = World([node("fast")], [profile("fast", None, reason="OptedOut")])
    (patch,) = world.decide(pod("a")).actions
    assert isinstance(patch, Patch)
    assert ANNOTATION_LOAD_TABLE not in patch.patch["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("policy", "words"), [("Additive", "fast lost by 0.23: utilization"), (None, "fast lost by 0.40: utilization")]
)
def test_loaded_fast_node_loses_and_the_receipt_says_why(policy: str | None, words: str) -> None:
    world = two_nodes(deployments=[deployment(placement={"policy": policy} if policy else None)])
    world.sample("fast", 0.9, 0.3)
    (patch,) = world.decide(pod("a")).actions
    assert isinstance(patch, Patch)
    assert bound_to(patch) == "slow"
    receipt = receipts.parse({"metadata": patch.patch["metadata"]})
    assert receipt is not None
    assert words in receipts.describe(receipt)
    assert receipt.terms.keys() == {"utilization", "capacity", "pending"} | ({"memory"} if policy else set())


def test_nothing_to_do_without_gated_pods() -> None:
    assert two_nodes().decide() == Decision()


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (node("fast", ready=False), "slow"),
        (node("fast", cordoned=True), "slow"),
        (node("fast", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}]), "slow"),
        (node("fast", taints=[{"key": "k", "value": "v", "effect": "PreferNoSchedule"}]), "fast"),
        (node("fast", cpu="50m"), "slow"),
        (node("fast", labels={"kubernetes.io/os": "windows"}), "slow"),
        (node("fast", labels={"kubernetes.io/os": "linux", "kubernetes.io/arch": "s390x"}), "slow"),
    ],
    ids=["not ready", "cordoned", "tainted", "soft taint", "too small", "other system", "other architecture"],
)
def test_unfit_nodes_are_left_out(broken: Raw, expected: str) -> None:
    world = two_nodes()
    world.facts.put(NODE, broken)
    assert bound(world.decide(pod("a"))) == {"a": expected}


def test_a_pod_that_claims_its_devices_is_left_to_the_scheduler_at_once() -> None:
    world = two_nodes()
    claims = [{"name": "devices", "resourceClaimTemplateName": "t"}]
    (patch,) = world.decide(pod("a", resourceClaims=claims)).actions
    assert isinstance(patch, Patch)
    assert "affinity" not in patch.patch["spec"]
    receipt = receipts.parse({"metadata": patch.patch["metadata"]})
    assert receipt is not None
    assert (receipt.node, "deviceClaim" in receipt.reason) == ("", True)


def test_toleration_and_selector() -> None:
    world = two_nodes()
    world.facts.put(NODE, node("fast", taints=[{"key": "k", "effect": "NoExecute"}], labels={"disk": "ssd"}))
    assert bound(world.decide(pod("a", tolerations=[{"key": "k", "operator": "Exists"}]))) == {"a": "fast"}
    world.facts.objects[POD] = []
    assert "b" not in bound(world.decide(pod("b", nodeSelector={"disk": "hdd"})))


def test_requests_of_pods_on_the_node_count_before_the_scheduler_has_bound_them() -> None:
    world = two_nodes()
    world.facts.put(NODE, node("fast", cpu="1"))
    first = world.decide(pod("a", cpu="800m"))
    assert bound(first) == {"a": "fast"}
    world.settle(first)
    world.live.samples.clear()  # only room decides
    assert bound(world.decide(pod("b", cpu="300m"))) == {"b": "slow"}


def test_volume_keeps_pods_where_it_can_be_reached() -> None:
    world = two_nodes()
    reach = {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["slow"]}]}]}
    world.facts.put(PV, {"metadata": {"name": "disk"}, "spec": {"nodeAffinity": {"required": reach}}})
    mounted = pod("a", volumes=[{"name": "w", "persistentVolumeClaim": {"claimName": "models"}}])
    decision = world.decide(mounted)
    assert not bound(decision)
    assert waiting(decision) == [
        "NoFittingProcessor: there is no PersistentVolumeClaim models in this namespace; create it"
    ]
    world.facts.put(PVC, {"metadata": {"name": "models", "namespace": "user"}, "spec": {"volumeName": "disk"}})
    assert bound(world.decide(mounted)) == {"a": "slow"}


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ({"fast": (0.0, 40.0), "slow": (0.9, 1.0)}, "slow"),  # stale
        ({"slow": (0.9, 1.0)}, "slow"),  # missing
        ({}, "fast"),  # nothing known of any
    ],
)
def test_unknown_samples_come_last(samples: dict[str, tuple[float, float]], expected: str) -> None:
    world = two_nodes()
    world.live.samples.clear()
    for name, (utilization, age_s) in samples.items():
        world.sample(name, utilization, age_s=age_s)
    assert bound(world.decide(pod("a"))) == {"a": expected}


@pytest.mark.parametrize(
    ("samples", "capacity", "words", "terms"),
    [
        ({}, "100.0", "n: load by throughput left as far as it is known 0.00 = capacity 0.00 (no sample that lasts)",
         {"capacity"}),
        ({}, None, "n: nothing is known of its load (no sample that lasts, not benchmarked)", set()),
        ({"n": 0.5}, None, "n: load as far as it is known 0.17 = utilization 0.17 + memory 0.00 (not benchmarked)",
         {"utilization", "memory"}),
    ],
)  # fmt: skip
def test_what_is_unknown_is_not_told_as_zero(
    samples: dict[str, float], capacity: str | None, words: str, terms: set[str]
) -> None:
    world = World([node("n")], [profile("n", capacity, reason="" if capacity else "BenchmarkTimedOut")])
    for name, utilization in samples.items():
        world.sample(name, utilization)
    receipt = receipts.parse({"metadata": only_patch(world.decide(pod("a"))).patch["metadata"]})
    assert receipt is not None
    assert receipt.reason.split(";")[0] == words
    assert receipt.terms.keys() == terms | {"pending"}
    assert (receipt.state_seconds is None) == (not samples)


def test_the_receipt_says_of_which_seconds_the_state_is() -> None:
    world = two_nodes()
    world.live.samples["fast", "cpu"] = Sample(
        utilization=0.01, memory_utilization=0.0, taken_at=NOW - 2, until=NOW - 30, seconds=60.0, left_out=0.83
    )
    receipt = receipts.parse({"metadata": only_patch(world.decide(pod("a"))).patch["metadata"]})
    assert receipt is not None
    assert receipt.reason.endswith("; state: mean of 60 s, 30 s old, without 0.83 by pods that end")
    assert (receipt.node, receipt.state_seconds, receipt.state_age_seconds) == ("fast", 60.0, 30.0)


@pytest.mark.parametrize(
    ("ready_s_ago", "pending"), [(None, 0.25), (3.0, 0.25), (20.0, 0.25 * 0.75), (35.0, 0.25 * 0.5), (70.0, 0.0)]
)
def test_a_window_shows_a_young_pod_as_far_as_it_covers_its_work(ready_s_ago: float | None, pending: float) -> None:
    """A pod is expected to take a quarter; five seconds after it is Ready its work begins to show."""
    world = two_nodes(deployments=[deployment(placement={"spread": False})])
    first = world.decide(pod("a"))
    world.settle(first, ready_at=None if ready_s_ago is None else NOW - ready_s_ago)
    for name in ("fast", "slow"):
        world.live.samples[name, "cpu"] = Sample(utilization=0.0, memory_utilization=0.0, taken_at=NOW, seconds=60.0)
    observed = world.reconciler.observe(world.facts, KEY) if world.decide(pod("b")) else None
    assert observed is not None
    assert observed.usage.pending("fast", "cpu") == pytest.approx(pending)


def test_unbenchmarked_comes_after_every_benchmarked_one() -> None:
    world = two_nodes()
    world.facts.put(ACCELERATOR_PROFILE, profile("fast", None, reason="BenchmarkTimedOut"))
    world.sample("slow", 0.95)
    decision = world.decide(pod("a"))
    assert bound(decision) == {"a": "slow"}
    assert "fast lost as it is not benchmarked" in decision.events[0].message


def test_no_pod_waits_for_a_benchmark_while_a_measured_node_has_room() -> None:
    """Be it as slow and as busy as can be."""
    world = two_nodes()
    world.facts.put(ACCELERATOR_PROFILE, profile("fast", None, reason="BenchmarkRunning"))
    world.sample("slow", 0.99)
    decision = world.decide(pod("a"))
    assert bound(decision) == {"a": "slow"}
    assert "not considered: 1 awaiting its first benchmark" in decision.events[0].message


def test_a_pod_waits_for_a_benchmark_no_longer_than_a_node_does() -> None:
    world = World([node("n")], [])  # whose profile never comes
    decision = world.decide(pod("a", age_s=570))
    assert waiting(decision) == ["AwaitingBenchmark: none of 1 node fits: 1 awaiting its first benchmark"]
    assert decision.requeue_after_s == 5.0
    world.settle(decision)
    released = world.decide(now=NOW + 31.0)
    (patch,) = released.actions
    assert isinstance(patch, Patch)
    receipt = receipts.parse({"metadata": patch.patch["metadata"]})
    assert receipt is not None
    assert receipt.reason == (
        "released to the scheduler without a node: none of 1 node fits: 1 awaiting its first benchmark"
    )
    assert [(each.reason, each.type) for each in released.events] == [("AwaitingBenchmark", "Normal")]


def test_pods_wait_for_the_first_benchmark_for_minutes() -> None:
    world = World([node("n")], [profile("n", None, reason="BenchmarkRunning")])
    decision = world.decide(pod("a", age_s=300))
    assert waiting(decision) == ["AwaitingBenchmark: none of 1 node fits: 1 awaiting its first benchmark"]
    world.settle(decision)
    again = world.decide()
    assert (again.actions, again.events) == ((), ())  # said once
    world.facts.put(NODE, node("n", labels={LABEL_BENCHMARK_OPT_OUT: "true"}))
    placed = world.decide()
    assert bound(placed) == {"a": "n"}
    (patch,) = placed.actions
    assert isinstance(patch, Patch)
    assert patch.patch["metadata"]["annotations"][ANNOTATION_WAITING] is None


def test_no_fit_is_said_at_once_and_released_after_thirty_seconds() -> None:
    world = two_nodes()
    young = pod("a", cpu="100", age_s=10)
    decision = world.decide(young)
    assert waiting(decision) == ["NoFittingProcessor: none of 2 nodes fits: 2 insufficient cpu"]
    assert [(each.reason, each.type) for each in decision.events] == [("NoFittingProcessor", "Warning")]
    assert decision.requeue_after_s == 5.0
    world.settle(decision)
    assert world.decide(now=NOW + 18.0).requeue_after_s == pytest.approx(2.0)
    released = world.decide(now=NOW + 21.0)
    (patch,) = released.actions
    assert isinstance(patch, Patch)
    assert "affinity" not in patch.patch["spec"]
    receipt = receipts.parse({"metadata": patch.patch["metadata"]})
    assert receipt is not None
    assert (receipt.node, "released" in receipt.reason) == ("", True)
    world.settle(released)
    assert world.decide() == Decision()


def test_released_pod_is_adopted_where_the_scheduler_put_it() -> None:
    world = two_nodes()
    released = world.decide(pod("a", cpu="100", age_s=31))
    world.settle(released)
    adopted = world.facts.get(POD, "user", "a")
    assert adopted is not None
    world.facts.put(POD, {**adopted, "spec": {**adopted["spec"], "nodeName": "fast"}})
    decision = world.decide(pod("b"))
    assert bound(decision) == {"b": "slow"}  # fast is full, and has the unseen share of `a`


# --- bursts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_one_pass", [True, False])
def test_burst_over_four_equal_nodes_is_even(in_one_pass: bool) -> None:
    names = [f"n{i}" for i in range(4)]
    world = World([node(name) for name in names], [profile(name) for name in names],
                  deployments=[deployment(replicas=24)])  # fmt: skip
    for name in names:
        world.sample(name, 0.02)
    pods = [pod(f"p{i:02}") for i in range(24)]
    if in_one_pass:
        placed = bound(world.decide(*pods))
    else:
        placed = {}
        for each in pods:
            decision = world.decide(each)
            placed |= bound(decision)
            world.settle(decision)
    assert sorted(Counter(placed.values()).values()) == [6, 6, 6, 6]


def unequal(policy: str) -> World:
    """Capacity 4:2:1:1, pods of an eighth of the largest; the forecast comes from one pod that works."""
    capacities = {"a": "400.0", "b": "200.0", "c": "100.0", "d": "100.0"}
    placement = {"policy": policy, "spread": False}
    wanted = deployment(replicas=16, placement=placement, targets={"throughput": 50})
    world = World([node(name) for name in capacities], [profile(name, each) for name, each in capacities.items()],
                  deployments=[wanted])  # fmt: skip
    for name in capacities:
        world.sample(name, 0.0)
    return world


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("Additive", {"a": 9, "b": 3, "c": 2, "d": 2}), ("Forecast", {"a": 8, "b": 4, "c": 2, "d": 2})],
)
def test_sixteen_eighths_by_forecast_shares(policy: str, expected: dict[str, int]) -> None:
    """Shares come from target / forecast; the forecast from a replica that runs at one row per benchmark image."""
    world = unequal(policy)
    first = world.decide(pod("p00"))
    world.settle(first, ready_at=NOW - 2)
    model = ModelState(name="m", state="Ready", batch_size=1, throughput=50.0)
    device = DeviceState(kind="cpu", device="0", busy_ratio=0.125, memory_used_bytes=0, memory_bytes=1)
    state = SidecarState(revision=1, time=NOW, ready=True, models=[model], devices=[device])
    world.live.sidecars["uid-p00"] = Received(state=state, received_at=NOW)
    placed = bound(first) | bound(world.decide(*[pod(f"p{i:02}") for i in range(1, 16)]))
    assert Counter(placed.values()) == expected


def test_predicted_throughput_is_on_the_receipt() -> None:
    world = unequal("Additive")
    first = world.decide(pod("p0"))
    world.settle(first, ready_at=NOW - 60)
    model = ModelState(name="m", state="Ready", batch_size=1, throughput=40.0)
    device = DeviceState(kind="cpu", device="0", busy_ratio=0.5, memory_used_bytes=0, memory_bytes=1)
    state = SidecarState(revision=1, time=NOW, ready=True, models=[model], devices=[device])
    world.live.sidecars["uid-p0"] = Received(state=state, received_at=NOW)
    (patch,) = world.decide(pod("p1")).actions
    assert isinstance(patch, Patch)
    receipt = receipts.parse({"metadata": patch.patch["metadata"]})
    assert receipt is not None
    assert receipt.predicted_throughput == pytest.approx(80.0)  # a: 400 images/s, ratio 80 / 400


@pytest.mark.parametrize(
    ("ready_at", "expected"),
    [(None, "slow"), (NOW - 3, "slow"), (NOW - 20, "fast")],
    ids=["not ready", "sample is too young", "sample shows it"],
)
def test_own_placement_counts_until_samples_show_it(ready_at: float | None, expected: str) -> None:
    world = two_nodes(deployments=[deployment(placement={"spread": False})])
    world.facts.put(ACCELERATOR_PROFILE, profile("fast", "100.0", services=1))
    first = world.decide(pod("a"))
    world.settle(first, ready_at=ready_at)
    assert bound(world.decide(pod("b"))) == {"b": expected}


@pytest.mark.parametrize(
    ("policy", "busy", "expected"),
    [("Forecast", 0.6, "fast"), ("Forecast", 0.8, "slow"), ("Additive", 0.6, "fast"), ("Additive", 0.8, "slow")],
)
def test_a_pod_goes_where_it_gets_most(policy: str, busy: float, expected: str) -> None:
    """Of 100 images/s 40 are left, or 20; of 30 all. Additive: 0.2 or 0.27 by utilization against 0.23 by capacity."""
    world = two_nodes(deployments=[deployment(placement={"policy": policy})])
    world.facts.put(ACCELERATOR_PROFILE, profile("slow", "30.0"))
    world.sample("fast", busy)
    assert bound(world.decide(pod("a"))) == {"a": expected}


@pytest.mark.parametrize(("policy", "expected"), [("Forecast", "fast"), ("Additive", "slow")])
def test_memory_in_use_makes_no_processor_slower(policy: str, expected: str) -> None:
    """40 % of a fast processor are left, which are a third more than all of the slow one."""
    world = two_nodes(deployments=[deployment(placement={"policy": policy})])
    world.facts.put(ACCELERATOR_PROFILE, profile("slow", "30.0"))
    world.sample("fast", 0.6, 0.8)
    assert bound(world.decide(pod("a"))) == {"a": expected}


def test_a_free_device_is_worth_what_it_does_however_busy_the_others_are() -> None:
    kind, emulated = KIND_EMULATED, {"weightsBytes": 1, "fixedMicroseconds": 1, "perRowMicroseconds": 1}
    world = World(
        [node("fast", **{kind: "8"}), node("slow", **{kind: "8"})],
        [profile("fast", "100.0", kind=kind), profile("slow", "50.0", kind=kind)],
        deployments=[deployment(kind=kind, emulated=emulated)],
    )
    world.sample("fast", 7 / 8, kind=kind)
    world.sample("slow", 0.0, kind=kind)
    assert bound(world.decide(pod("a", kind=kind))) == {"a": "fast"}


def test_without_a_benchmark_the_load_is_additive_and_the_receipt_says_so() -> None:
    world = World([node("a"), node("b")], [profile(name, None, reason="BenchmarkTimedOut") for name in "ab"])
    world.sample("a", 0.5)
    world.sample("b", 0.1)
    receipt = receipts.parse({"metadata": only_patch(world.decide(pod("p"))).patch["metadata"]})
    assert receipt is not None
    assert (receipt.node, receipt.policy) == ("b", "Additive")


def test_spread_keeps_one_node_from_taking_all() -> None:
    """slow would lose by 0.05: less than the spread term, which holds from two replicas on."""
    results = {}
    for spread in (True, False):
        world = World(
            [node("fast"), node("slow")],
            [profile("fast", "100.0"), profile("slow", "95.0")],
            deployments=[deployment(replicas=2, placement={"spread": spread})],
        )
        world.sample("fast", 0.0)
        world.sample("slow", 0.0)
        world.settle(world.decide(pod("a")), ready_at=NOW - 100)
        decision = world.decide(pod("b"))
        results[spread] = bound(decision)["b"]
        if spread:
            assert "fast lost by 0.05: spread over nodes" in decision.events[0].message
    assert results == {True: "slow", False: "fast"}


def test_oldest_pod_goes_first() -> None:
    world = two_nodes()
    world.facts.put(NODE, node("fast", cpu="150m"))
    world.facts.put(NODE, node("slow", cordoned=True))
    decision = world.decide(pod("young", age_s=1), pod("old", age_s=9))
    assert bound(decision) == {"old": "fast"}
    assert waiting(decision) == ["NoFittingProcessor: none of 2 nodes fits: 1 cordoned, 1 insufficient cpu"]


# --- devices -------------------------------------------------------------------------------------


def emulated_world(memory: int = 1000) -> World:
    kind = KIND_EMULATED
    nodes = [node("a", **{kind: "2"}), node("b", **{kind: "1"}), node("c")]
    nodes[1]["metadata"]["annotations"] = {ANNOTATION_EMULATED_DEVICE: '{"fixedMicroseconds":5}'}
    profiles = [profile("a", "100.0", kind=kind), profile("b", "100.0", kind=kind), profile("c")]
    wanted = deployment(kind=kind, emulated={"weightsBytes": memory, "fixedMicroseconds": 1, "perRowMicroseconds": 1})
    world = World(nodes, profiles, deployments=[wanted])
    for name in "ab":
        world.sample(name, 0.0, kind=kind)
    return world


def test_exclusive_devices_are_whole() -> None:
    """Shares are whole devices: half of a's two, all of b's one; a third pod takes a's second, a fourth waits."""
    world = emulated_world()
    decision = world.decide(*[pod(f"p{i}", kind=KIND_EMULATED) for i in range(4)])
    assert bound(decision) == {"p0": "a", "p1": "b", "p2": "a"}
    assert waiting(decision) == [
        f"NoFittingProcessor: none of 3 nodes fits: 2 insufficient {KIND_EMULATED}, 1 without {KIND_EMULATED}"
    ]


def test_pod_is_annotated_with_what_the_nodes_device_emulates() -> None:
    decision = emulated_world().decide(*[pod(f"p{i}", kind=KIND_EMULATED) for i in range(2)])
    annotated = [each.patch["metadata"]["annotations"].get(ANNOTATION_EMULATED_DEVICE) for each in decision.actions
            if isinstance(each, Patch)]  # fmt: skip
    assert annotated == [None, '{"fixedMicroseconds":5}']


def test_largest_model_must_fit_a_device() -> None:
    world = emulated_world(memory=2000)
    for name, size in (("a", 1000), ("b", 4000)):
        raw = profile(name, "100.0", kind=KIND_EMULATED)
        raw["status"]["processors"][0]["devices"] = [{"id": "0", "memoryBytes": size}]
        world.facts.put(ACCELERATOR_PROFILE, raw)
    assert bound(world.decide(pod("p", kind=KIND_EMULATED))) == {"p": "b"}


# --- the scheduler refuses --------------------------------------------------------------------------


def test_refused_pod_is_deleted_and_its_node_excluded_until_it_changes() -> None:
    world = two_nodes()
    world.settle(world.decide(pod("a")))
    stuck = world.facts.get(POD, "user", "a")
    assert stuck is not None
    decision = world.decide(unschedulable(stuck))
    assert [(type(each), each.name, getattr(each, "uid", "")) for each in decision.actions] == [(Delete, "a", "uid-a")]
    assert (decision.events[0].reason, "port taken" in decision.events[0].message) == ("PlacementTakenBack", True)
    world.facts.objects[POD] = []
    assert bound(world.decide(pod("b"))) == {"b": "slow"}
    world.facts.put(NODE, node("fast", labels={"new": "label"}))
    assert bound(world.decide(pod("b"))) == {"b": "fast"}


def test_excluded_node_comes_back_when_a_pod_leaves_it() -> None:
    world = two_nodes()
    other = pod("other", owner="x", cpu="1", nodeName="fast", schedulingGates=[])
    world.settle(world.decide(pod("a"), other))
    stuck = world.facts.get(POD, "user", "a")
    assert stuck is not None
    world.decide(unschedulable(stuck))
    world.facts.objects[POD] = [other]
    assert bound(world.decide(pod("b"))) == {"b": "slow"}
    world.facts.objects[POD] = []
    assert bound(world.decide(pod("b"))) == {"b": "fast"}


def test_own_affinity_is_narrowed_never_widened() -> None:
    term = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    world = two_nodes()
    world.reconciler = PlacementReconciler(Settings(placement_pin="Affinity"), world.live)
    world.facts.put(NODE, node("slow", labels={"disk": "ssd"}))
    decision = world.decide(pod("a", affinity={"nodeAffinity": required}))
    (patch,) = decision.actions
    assert isinstance(patch, Patch)
    (narrowed,) = patch.patch["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert narrowed["matchExpressions"] == term["matchExpressions"]
    assert bound_to(patch) == "slow"


def test_gate_of_others_is_waited_for() -> None:
    gates = [{"name": SCHEDULING_GATE}, {"name": "kueue.x-k8s.io/admission"}]
    assert two_nodes().decide(pod("a", schedulingGates=gates)).actions == ()


def test_receipt_that_somebody_broke_is_none() -> None:
    assert receipts.parse({"metadata": {"annotations": {ANNOTATION_RECEIPT: "{"}}}) is None


def test_five_thousand_pods_on_a_thousand_nodes_are_spread_in_one_cycle() -> None:
    names = [f"n{i:04}" for i in range(1000)]
    world = World([node(name) for name in names], [profile(name) for name in names],
                  deployments=[deployment(replicas=5000)])  # fmt: skip
    for name in names:
        world.sample(name, 0.0)
    world.facts.objects[POD] = [pod(f"p{i:04}") for i in range(5000)]
    decision = world.decide()
    assert set(Counter(bound(decision).values()).values()) == {5}
    assert decision.requeue_after_s is None


def test_receipts_of_pods_that_are_not_ours_fill_no_node() -> None:
    world = two_nodes()
    for name in ("fast", "slow"):
        receipt = receipts.render(
            Receipt(node=name, processor="cpu", load="0.00", terms={}, decided_time="2027-01-15T08:00:00Z")
        )
        raw = forged(f"on-{name}", cpu="1000", schedulingGates=[], schedulerName="nobody")
        raw["metadata"]["annotations"][ANNOTATION_RECEIPT] = receipt
        world.decide(raw)
    assert bound(world.decide(pod("a"))) == {"a": "fast"}


def test_a_pod_that_only_says_that_it_is_ours_is_left_alone() -> None:
    world = two_nodes()
    assert world.decide(forged("a")).actions == ()
    gated = world.decide(pod("b"))
    assert bound(gated) == {"b": "fast"}
    world.facts.put(POD, unschedulable(forged("c", schedulingGates=[], annotations={})))
    assert not [each for each in world.decide().actions if isinstance(each, Delete)]


def test_a_refused_pod_is_deleted_as_it_was_seen_and_without_force() -> None:
    world = two_nodes()
    decision = world.decide(pod("a"))
    world.settle(decision)
    raw = world.facts.get(POD, "user", "a")
    assert raw is not None
    [undone] = [each for each in world.decide(unschedulable(raw)).actions if isinstance(each, Delete)]
    assert (undone.uid, undone.resource_version) == ("uid-a", raw["metadata"]["resourceVersion"])
