"""Rebalancing as a whole, in a world where decisions take effect as the API server and controllers would have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, DEPLOYMENT, MODEL_DEPLOYMENT, NODE, POD, Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.placement.moves import ANNOTATION_DELETION_COST, FIRST_TO_GO, Move, move_of, surge_of
from batchwright_operator.placement.placed_pods import PlacedPod, model_pod
from batchwright_operator.rebalance.imbalance import WINDOWS, Histories, has_lasted, worst
from batchwright_operator.rebalance.progress import AFTER_FAILURE, LEAVE_S, READY_S, next_step
from batchwright_operator.rebalance.reconciler import KEY, RebalanceReconciler
from batchwright_operator.rebalance.standing import Standing
from batchwright_operator.reconcile.decisions import Decision, Patch
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import ANNOTATION_KIND, COMPONENT_MODEL, LABEL_COMPONENT
from tests.placement.placement_objects import NOW, Facts, deployment, node, pod, profile

SETTINGS = Settings()
WINDOW_S = SETTINGS.rebalance_window_seconds


class World:
    """Two nodes, fast (100 images/s) and slow (50), and deployments with replicas on them."""

    def __init__(self, **where: str) -> None:
        """`where`: the node of the only replica of a deployment of that name."""
        self.now, self.start_s, self.places_on = NOW, 0.0, "fast"
        self.live = LiveState()
        self.shares: dict[str, float] = {}
        self.live.share_of_pod = lambda place, uid: self.shares.get(uid)
        self.facts = Facts({
            NODE: [node("fast"), node("slow")], MODEL_DEPLOYMENT: [deployment(name) for name in where],
            ACCELERATOR_PROFILE: [profile("fast", "100.0"), profile("slow", "50.0")],
        })  # fmt: skip
        for name, at in where.items():
            self.run(name, f"{name}-0", at, ready_at=NOW - 600)
            self.facts.put(DEPLOYMENT, self.workload(name, 1))
        self.reconciler = RebalanceReconciler(SETTINGS, self.live)
        self.events: list[tuple[str, str]] = []
        self.most_pods: dict[str, int] = {}

    def load(self, **busy: float) -> None:
        """The lasting utilization of nodes."""
        for name, utilization in busy.items():
            self.live.samples[name, "cpu"] = Sample(
                utilization=utilization, memory_utilization=0.0, taken_at=self.now, seconds=60.0
            )

    def workload(self, name: str, replicas: int, **annotations: str) -> Raw:
        kind = {ANNOTATION_KIND: "cpu", **annotations}
        owner = {"kind": "ModelDeployment", "name": name, "uid": f"uid-{name}", "controller": True}
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), len(self.pods(name)))
        return {
            "metadata": {
                "name": f"{name}-cpu", "namespace": "user", "uid": f"uid-{name}-cpu", "generation": 1,
                "annotations": kind, "labels": {LABEL_COMPONENT: COMPONENT_MODEL},
                "ownerReferences": [owner],
            },
            "spec": {"replicas": replicas}, "status": {"observedGeneration": 1, **counts},
        }  # fmt: skip

    def pods(self, name: str) -> list[Raw]:
        return [each for each in self.facts.all(POD) if each["metadata"]["name"].startswith(f"{name}-")]

    def nodes_of(self, name: str) -> list[str]:
        return [each["spec"]["nodeName"] for each in self.pods(name)]

    def run(self, owner: str, name: str, at: str, *, ready_at: float | None) -> None:
        raw = pod(name, owner=owner, schedulingGates=[], nodeName=at)
        raw["metadata"]["creationTimestamp"] = rfc3339(self.now)
        ready = [{"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(ready_at)}] if ready_at else []
        raw["status"] = {"phase": "Running", "conditions": ready}
        raw["metadata"].pop("resourceVersion")
        self.facts.put(POD, raw)

    def step(self, after_s: float) -> Decision:
        """One pass, what it asked for, and what the controllers make of that."""
        self.now += after_s
        for place, sample in self.live.samples.items():
            self.live.samples[place] = _moved_on(sample, self.now)
        observed = self.reconciler.observe(self.facts, KEY)
        assert observed is not None
        decision = self.reconciler.decide(observed, self.now)
        self.events += [(each.reason, each.message) for each in decision.events]
        for action in decision.actions:
            assert isinstance(action, Patch)
            self._patch(action)
        self._controllers()
        return decision

    def _patch(self, action: Patch) -> None:
        raw = self.facts.get(POD, "user", action.name) if action.resource == POD else self._stored(action.name)
        assert raw is not None
        metadata = dict(raw["metadata"])
        merged = {**metadata.get("annotations", {}), **action.patch["metadata"]["annotations"]}
        metadata["annotations"] = {name: value for name, value in merged.items() if value is not None}
        self.facts.put(action.resource, {**raw, "metadata": metadata})

    def _stored(self, name: str) -> Raw:
        return next(each for each in self.facts.all(DEPLOYMENT) if each["metadata"]["name"] == name)

    def _controllers(self) -> None:
        """Deployments as our reconciler renders them, pods as ReplicaSets make and delete them."""
        for raw in self.facts.all(DEPLOYMENT):
            name = raw["metadata"]["name"].removesuffix("-cpu")
            wanted, there = 1 + surge_of(raw), self.pods(name)
            self.most_pods[name] = max(self.most_pods.get(name, 0), len(there))
            if len(there) < wanted:
                ready = self.now if self.start_s == 0 else None
                self.run(name, f"{name}-{len(there)}", self.places_on, ready_at=ready)
            elif len(there) > wanted:
                gone = min(there, key=lambda each: (_is_ready(each), _cost(each)))
                self.facts.objects[POD] = [each for each in self.facts.all(POD) if each is not gone]
            annotations = raw["metadata"]["annotations"]
            self.facts.put(DEPLOYMENT, self.workload(name, wanted, **annotations))

    def move(self, name: str) -> Move | None:
        return move_of(self._stored(f"{name}-cpu"))


def _moved_on(sample: Sample, now: float) -> Sample:
    return Sample(utilization=sample.utilization, memory_utilization=0.0, taken_at=now, seconds=sample.seconds)


def _cost(raw: Raw) -> int:
    return int(raw["metadata"]["annotations"].get(ANNOTATION_DELETION_COST, "0"))


def _is_ready(raw: Raw) -> bool:
    return bool(raw["status"]["conditions"])


def crowded() -> World:
    """The demo's wrong start: the only replica keeps the slow node busy while the fast one idles."""
    world = World(ocr="slow")
    world.load(slow=1.0, fast=0.01)
    world.shares["uid-ocr-0"] = 0.98
    return world


def windows(world: World, count: int) -> None:
    for _ in range(count):
        world.step(WINDOW_S)


def test_a_pod_that_sits_badly_for_long_moves_a_new_one_first_and_then_it_stops() -> None:
    world = crowded()
    windows(world, WINDOWS - 1)
    assert world.move("ocr") is None
    windows(world, 1)
    assert world.move("ocr") is not None
    for _ in range(10):
        world.step(2.0)
    assert world.nodes_of("ocr") == ["fast"]
    assert [reason for reason, _ in world.events] == ["Rebalancing", "Rebalanced"]
    assert "0.50 above that on fast (0.51 and 0.01 by throughput left)" in world.events[0][1]
    assert world.most_pods == {"ocr": 2}
    world.load(slow=0.0, fast=1.0)
    world.shares["uid-ocr-1"] = 0.98
    windows(world, 60)
    assert (world.nodes_of("ocr"), len(world.events)) == (["fast"], 2)
    assert world.move("ocr") is None  # its rest is over


@pytest.mark.parametrize(
    "change",
    [
        lambda world: world.load(fast=0.6),
        lambda world: world.load(slow=0.5),
        lambda world: world.facts.put(NODE, node("fast", cordoned=True)),
        lambda world: world.facts.put(NODE, node("fast", cpu="50m")),
        lambda world: world.facts.put(MODEL_DEPLOYMENT, deployment("ocr", placement={"rebalance": "Never"})),
        lambda world: world.shares.clear(),
        lambda world: world.live.samples.pop(("fast", "cpu")),
        lambda world: world.facts.put(ACCELERATOR_PROFILE, profile("fast", "60.0")),
        lambda world: world.run("ocr", "ocr-0", "slow", ready_at=None),
    ],
    ids=[
        "hardly better", "not crowded", "cordoned", "no room", "Never", "own part unknown", "no sample",
        "hardly faster", "not ready",
    ],
)  # fmt: skip
def test_a_pod_stays(change: Callable[[World], Any]) -> None:
    world = crowded()
    change(world)
    windows(world, 3 * WINDOWS)
    assert world.events == []
    assert world.move("ocr") is None


def test_one_window_in_which_it_is_well_begins_the_count_anew() -> None:
    world = crowded()
    windows(world, WINDOWS - 1)
    world.load(slow=0.3)
    windows(world, 1)
    world.load(slow=1.0)
    windows(world, WINDOWS - 1)
    assert world.events == []
    windows(world, 1)
    assert [reason for reason, _ in world.events] == ["Rebalancing"]


def test_a_gain_that_mends_itself_is_left_to_do_so() -> None:
    assert has_lasted([0.5] * WINDOWS, 0.3)
    assert not has_lasted([0.9, 0.8, 0.7, 0.6, 0.5], 0.3)
    assert has_lasted([0.9, 0.4, 0.9, 0.4, 0.9], 0.3)
    assert not has_lasted([0.5] * (WINDOWS - 1), 0.3)
    assert not has_lasted([0.5, 0.5, 0.2, 0.5, 0.5], 0.3)


def test_the_budget_is_that_of_the_cluster_and_the_worst_goes_first() -> None:
    world = World(a="slow", b="slow")
    world.load(slow=1.0, fast=0.0)
    world.shares |= {"uid-a-0": 0.3, "uid-b-0": 0.6}
    windows(world, WINDOWS)
    assert (world.move("a") is not None, world.move("b") is not None) == (True, False)
    # Beside b there are 40 % of the slow node left for a, beside a 70 % for b.
    assert "a-0 is moved" in world.events[0][1]


def test_a_pod_that_does_not_get_ready_gives_the_move_up_and_the_old_one_serves_on() -> None:
    world = crowded()
    world.start_s = 1.0
    windows(world, WINDOWS)
    for _ in range(int(READY_S / 2) + 5):
        world.step(2.0)
    assert world.nodes_of("ocr") == ["slow"]
    assert [reason for reason, _ in world.events] == ["Rebalancing", "RebalanceGivenUp"]
    windows(world, int(AFTER_FAILURE * SETTINGS.rebalance_cooldown_seconds / WINDOW_S) - 15)
    assert len(world.events) == 2


def test_a_new_pod_on_the_same_node_goes_again() -> None:
    world = crowded()
    world.places_on = "slow"
    windows(world, WINDOWS)
    for _ in range(10):
        world.step(2.0)
    assert [each["metadata"]["name"] for each in world.pods("ocr")] == ["ocr-0"]
    assert world.events[-1] == ("RebalanceGivenUp", "ocr-0 stays on slow: the new pod was placed on slow again")


def test_a_move_goes_on_after_a_restart_of_the_operator() -> None:
    world = crowded()
    windows(world, WINDOWS)
    world.reconciler = RebalanceReconciler(SETTINGS, world.live)
    for _ in range(10):
        world.step(2.0)
    assert world.nodes_of("ocr") == ["fast"]


# --- single steps ------------------------------------------------------------------------------------


def move(state: str, *, age_s: float = 0.0) -> Move:
    at = rfc3339(NOW - age_s)
    return Move(pod="a", uid="uid-a", source="slow", target="fast", state=state, since=at, began=at)  # type: ignore[arg-type]


def placed(name: str, at: str, *, ready_s: float | None = 60.0, cost: str = "", age_s: float = 30.0) -> PlacedPod:
    raw = pod(name, schedulingGates=[], nodeName=at, age_s=age_s)
    if cost:
        raw["metadata"]["annotations"][ANNOTATION_DELETION_COST] = cost
    if ready_s is not None:
        raw["status"] = {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(NOW - ready_s)}
        ]}  # fmt: skip
    return model_pod(raw)


@pytest.mark.parametrize(
    ("found", "pods", "wanted", "expected"),
    [
        (move("Surging", age_s=40), [placed("a", "slow", age_s=900)], 2, "wait"),
        (move("Surging", age_s=40), [placed("a", "slow", age_s=900), placed("b", "fast", ready_s=2.0)], 2, "wait"),
        (move("Surging", age_s=40), [placed("a", "slow", age_s=900), placed("b", "fast")], 2, "mark a"),
        (move("Surging", age_s=40), [placed("a", "slow", age_s=900, cost=FIRST_TO_GO), placed("b", "fast")], 2,
         "Leaving"),
        # Another replica is not ready: to take one away now would leave one too few.
        (move("Surging", age_s=40),
         [placed("a", "slow", age_s=900), placed("b", "fast"), placed("c", "slow", ready_s=None)], 3, "wait"),
        (move("Surging", age_s=40), [placed("b", "fast")], 2, "Done"),
        (move("Leaving", age_s=10), [placed("a", "slow"), placed("b", "fast")], 1, "wait"),
        (move("Leaving", age_s=10), [placed("b", "fast")], 1, "Done"),
        (move("Leaving", age_s=LEAVE_S + 1), [placed("a", "slow")], 1, "Done"),
        (move("Done", age_s=10), [placed("b", "fast")], 1, "wait"),
        (move("Done", age_s=601), [placed("b", "fast")], 1, "over"),
        (move("GivenUp", age_s=601), [placed("a", "slow")], 1, "wait"),
        (move("GivenUp", age_s=3601), [placed("a", "slow")], 1, "over"),
    ],
)  # fmt: skip
def test_next_step(found: Move, pods: list[PlacedPod], wanted: int, expected: str) -> None:
    step = next_step(found, pods, wanted=wanted, cooldown_s=600.0, now=NOW)
    got = "over" if step.over else f"mark {step.mark.name}" if step.mark else step.move.state if step.move else "wait"
    assert got == expected


def test_of_each_deployment_the_worst_is_first() -> None:
    def stands(name: str, owner: str, gain: float) -> Standing:
        return Standing(pod=model_pod(pod(name, owner=owner)), here=gain, there=0.0, target="fast")

    found = [stands("a", "x", 0.4), stands("b", "x", 0.6), stands("c", "y", 0.5)]
    histories = Histories(window_s=WINDOW_S)
    for i in range(WINDOWS):
        histories.note(found, NOW + i * WINDOW_S)
    assert [each.pod.name for each in worst(found, histories, 0.3)] == ["b", "c"]


def test_an_unreadable_move_is_none() -> None:
    assert move_of({"metadata": {"annotations": {"batchwright.dev/move": "{"}}}) is None
