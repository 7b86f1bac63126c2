"""A cycle over many: turns of namespaces, what equal demands share, what is kept over cycles, who is told what when."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest

from batchwright_operator.kube.objects import (
    ACCELERATOR_PROFILE,
    DEPLOYMENT,
    MODEL_DEPLOYMENT,
    NODE,
    POD,
    REPLICA_SET,
    Raw,
    Resource,
)
from batchwright_operator.placement import candidate_pool, node_changes, pools, scoreboard
from batchwright_operator.placement.cycle import TOLD_AGAIN_S
from batchwright_operator.placement.reconciler import KEY, PlacementReconciler
from batchwright_operator.placement.scoring import Candidate, Score, ScoreContext, score
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.decisions import Action, Decision, Delete, Patch
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import ANNOTATION_WAITING
from tests.placement.placement_objects import NOW, applied, bound_to, deployment, node, pod, profile, unschedulable


class Cluster:
    """The real cache and the reconciler; every object has the version of its last change."""

    def __init__(self, nodes: int = 3, **how: Any) -> None:
        self.store, self.live, self.version = Store(), LiveState(), 10
        self.reconciler = PlacementReconciler(Settings(), self.live)
        for watch in self.reconciler.watches():
            self.store.register(watch)
        for number in range(nodes):
            self.put(NODE, node(f"n{number}", **how))
            self.put(ACCELERATOR_PROFILE, profile(f"n{number}"))
            self.live.samples[f"n{number}", "cpu"] = Sample(utilization=0.0, memory_utilization=0.0, taken_at=NOW)

    def put(self, resource: Resource, raw: Raw) -> Raw:
        self.version += 1
        raw = {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(self.version)}}
        self.store.written(resource, raw)
        return raw

    def deploy(self, name: str = "ocr", namespace: str = "user", **how: Any) -> None:
        """A ModelDeployment and what stands between it and its pods."""
        self.put(MODEL_DEPLOYMENT, moved(deployment(name, **how), namespace))
        for resource, own, above in (
            (DEPLOYMENT, f"{name}-cpu", ("ModelDeployment", name)),
            (REPLICA_SET, f"{name}-rs", ("Deployment", f"{name}-cpu")),
        ):
            owner = {"kind": above[0], "name": above[1], "uid": f"uid-{namespace}-{above[1]}", "controller": True}
            head = {"name": own, "namespace": namespace, "uid": f"uid-{namespace}-{own}", "ownerReferences": [owner],
                    "labels": {"batchwright.dev/deployment": name}}  # fmt: skip
            self.put(resource, {"metadata": head})

    def wait(self, name: str, namespace: str = "user", **how: Any) -> Raw:
        """A gated pod."""
        return self.put(POD, moved(pod(name, **how), namespace))

    def decide(self, now: float = NOW) -> Decision:
        observed = self.reconciler.observe(self.store, KEY)
        return Decision() if observed is None else self.reconciler.decide(observed, now)

    def apply(self, actions: tuple[Action, ...]) -> None:
        """What the API server makes of these."""
        for action in actions:
            assert isinstance(action, Patch | Delete)
            raw = self.store.get(POD, action.namespace, action.name)
            assert raw is not None
            if isinstance(action, Patch):
                self.put(POD, applied(raw, action))
            else:
                self.store.not_found(POD, action.namespace, action.name)


def moved(raw: Raw, namespace: str) -> Raw:
    """The object in another namespace, where uids are other ones too."""
    raw = copy.deepcopy(raw)
    raw["metadata"] |= {"namespace": namespace, "uid": raw["metadata"]["uid"].replace("uid-", f"uid-{namespace}-")}
    for owner in raw["metadata"].get("ownerReferences", ()):
        owner["uid"] = owner["uid"].replace("uid-", f"uid-{namespace}-")
    return raw


def order(actions: tuple[Action, ...]) -> list[str]:
    return [f"{each.namespace}/{each.name}" for each in actions if isinstance(each, Patch | Delete)]


def is_bound(patch: Patch) -> bool:
    return bool(patch.nominated_node) or "affinity" in str(patch.patch)


def placed(actions: tuple[Action, ...]) -> dict[str, str]:
    return {each.name: bound_to(each) for each in actions if isinstance(each, Patch) and is_bound(each)}


def told(actions: tuple[Action, ...]) -> list[str]:
    return [
        each.patch["metadata"]["annotations"][ANNOTATION_WAITING]
        for each in actions
        if isinstance(each, Patch) and "spec" not in each.patch
    ]


def test_a_tenant_with_many_waiting_pods_holds_up_nobody() -> None:
    cluster = Cluster()
    for namespace, names in {"big": [f"p{number}" for number in range(9)], "small": ["one"]}.items():
        cluster.deploy(namespace=namespace)
        for name in names:
            cluster.wait(name, namespace, age_s=100.0 if namespace == "big" else 1.0)
    assert order(cluster.decide().actions)[:3] == ["big/p0", "small/one", "big/p1"]


def test_equal_demands_of_different_deployments_are_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, made = Cluster(nodes=50), []

    class Pool(candidate_pool.CandidatePool):
        def __init__(self, *args: Any) -> None:
            made.append(args)
            super().__init__(*args)

    monkeypatch.setattr(pools, "CandidatePool", Pool)
    for number in range(20):
        cluster.deploy(f"d{number}")
        cluster.wait(f"p{number}", owner=f"d{number}")
    decision = cluster.decide()
    assert len(placed(decision.actions)) == 20
    assert set(Counter(placed(decision.actions).values()).values()) == {1}
    assert len(made) == 1
    cluster.apply(decision.actions)
    cluster.deploy("later")
    cluster.wait("another", owner="later")
    assert len(placed(cluster.decide().actions)) == 1
    assert len(made) == 1, "kept over cycles"


def test_different_demands_share_the_scores_of_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each sees at once what was placed for the others."""
    cluster, scored = Cluster(nodes=4), Counter[str]()

    def counting(candidate: Candidate, context: ScoreContext) -> Score:
        scored[candidate.node.name] += 1
        return score(candidate, context)

    monkeypatch.setattr(scoreboard, "score", counting)
    for number in range(4):
        cluster.deploy(f"d{number}")
        cluster.wait(f"p{number}", owner=f"d{number}", cpu=f"{number + 1}00m")
    decision = cluster.decide()
    assert set(Counter(placed(decision.actions).values()).values()) == {1}
    assert sum(scored.values()) == 4 + 3, "each node once, and once more when it got a pod that another came after"


def test_what_changed_between_cycles_is_seen_in_a_pool_that_is_kept() -> None:
    cluster = Cluster(nodes=2)
    cluster.deploy(placement={"spread": False})
    cluster.wait("a")
    first = cluster.decide()
    assert placed(first.actions) == {"a": "n0"}
    cluster.apply(first.actions)
    cluster.put(NODE, node("n1", cordoned=True))
    cluster.wait("b")
    second = cluster.decide()
    assert placed(second.actions) == {"b": "n0"}
    cluster.apply(second.actions)
    cluster.put(NODE, node("n1"))
    cluster.put(NODE, node("n0", cpu="250m"))  # room for what it has and no more
    cluster.wait("c")
    assert placed(cluster.decide().actions) == {"c": "n1"}
    cluster.store.not_found(POD, "user", "a")
    cluster.put(NODE, node("n1", ready=False))
    assert placed(cluster.decide().actions) == {"c": "n0"}


def test_nodes_and_deployments_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_changes, "GONE_MAX", 5)
    cluster = Cluster(nodes=1)
    state = cluster.reconciler._state
    for number in range(20):
        cluster.put(NODE, node(f"spot-{number}", cpu="9"))
        cluster.put(ACCELERATOR_PROFILE, profile(f"spot-{number}"))
        cluster.deploy(f"d{number}")
        cluster.wait(f"p{number}", owner=f"d{number}", cpu="5")
        decision = cluster.decide()
        assert placed(decision.actions) == {f"p{number}": f"spot-{number}"}, "none of those that are gone"
        cluster.apply(decision.actions)
        cluster.store.not_found(POD, "user", f"p{number}")
        cluster.store.not_found(MODEL_DEPLOYMENT, "user", f"d{number}")
        cluster.store.not_found(NODE, "", f"spot-{number}")
    cluster.decide()
    assert len(state.changes) <= 2 * 1 + 5
    assert len(state._deployments) == 0


def test_pods_of_others_count_as_they_come_and_go() -> None:
    cluster = Cluster(nodes=1, cpu="1")
    cluster.deploy()
    foreign = {"metadata": {"name": "f", "namespace": "x", "uid": "f"},
               "spec": {"nodeName": "n0", "containers": [{"resources": {"requests": {"cpu": 0.95}}}]},
               "status": {"phase": "Running"}}  # fmt: skip
    cluster.put(POD, foreign)
    cluster.wait("a")
    assert told(cluster.decide().actions) == ["NoFittingProcessor: none of 1 node fits: 1 insufficient cpu"]
    cluster.put(POD, {**foreign, "status": {"phase": "Succeeded"}})
    assert placed(cluster.decide().actions) == {"a": "n0"}


def test_a_pod_that_was_seen_before_its_replica_set_is_placed_when_that_is_seen() -> None:
    cluster = Cluster()
    cluster.wait("a")
    assert cluster.decide() == Decision()
    cluster.deploy()
    assert set(placed(cluster.decide().actions)) == {"a"}


def test_what_is_decided_counts_until_it_is_answered_and_is_not_decided_twice() -> None:
    cluster = Cluster(nodes=1, cpu="150m")
    cluster.deploy()
    cluster.wait("a")
    cluster.wait("b")
    observed = cluster.reconciler.observe(cluster.store, KEY)
    assert observed is not None
    steps = iter(cluster.reconciler.steps(observed, NOW))
    first = next(actions for actions in steps if actions)
    again = cluster.reconciler.observe(cluster.store, KEY)
    assert again is not None
    more = [action for actions in cluster.reconciler.steps(again, NOW) for action in actions]
    assert set(placed(first)) | {each.name for each in more if isinstance(each, Patch)} == {"a", "b"}
    assert told(tuple(more)) == ["NoFittingProcessor: none of 1 node fits: 1 insufficient cpu"]
    cluster.reconciler.answered(first[0], "", NOW)  # a conflict: nothing was written
    assert set(placed(cluster.decide().actions)) == set(placed(first))


def test_a_pod_whose_patch_is_refused_is_left_alone_for_a_while_and_that_is_said() -> None:
    cluster = Cluster()
    cluster.deploy()
    cluster.wait("a")
    observed = cluster.reconciler.observe(cluster.store, KEY)
    assert observed is not None
    (action,) = (action for actions in cluster.reconciler.steps(observed, NOW) for action in actions)
    cluster.reconciler.answered(action, "Pod a: denied by a webhook", NOW)
    after = cluster.decide()
    assert after.actions == ()
    assert after.requeue_after_s is not None
    assert [(each.reason, each.message) for each in after.events] == [
        ("PlacementRefused", "a: Pod a: denied by a webhook")
    ]
    assert cluster.decide().events == ()
    assert set(placed(cluster.decide(NOW + 3).actions)) == {"a"}


def test_a_waiting_pod_is_not_told_each_time_that_a_number_changes() -> None:
    cluster = Cluster(nodes=2, cpu="50m")
    cluster.deploy()
    cluster.wait("a")
    first = cluster.decide()
    assert len(told(first.actions)) == 1
    cluster.apply(first.actions)
    cluster.put(NODE, node("n9", cpu="50m"))
    assert told(cluster.decide().actions) == []
    cluster.put(NODE, node("n8", cordoned=True))
    assert told(cluster.decide(NOW + 1).actions) == []
    said = cluster.decide(NOW + TOLD_AGAIN_S + 1)
    assert "released" in str(said.actions) or told(said.actions), "another reason is told, but not at once"


def test_a_refused_pod_is_deleted_once() -> None:
    cluster = Cluster()
    cluster.deploy()
    cluster.wait("a")
    first = cluster.decide()
    cluster.apply(first.actions)
    raw = cluster.store.get(POD, "user", "a")
    assert raw is not None
    cluster.put(POD, unschedulable(raw))
    observed = cluster.reconciler.observe(cluster.store, KEY)
    assert observed is not None
    deleted = [action for actions in cluster.reconciler.steps(observed, NOW) for action in actions]
    assert [type(each) for each in deleted] == [Delete]
    assert cluster.reconciler.observe(cluster.store, KEY) is None, "its deletion is on its way"


def test_how_long_pods_waited_is_observed() -> None:
    cluster = Cluster()
    cluster.deploy()
    cluster.wait("a", age_s=7.0)
    seen = cluster.decide().observations
    assert seen["batchwright_placement_gate_age_seconds"] == pytest.approx((7.0,), abs=1.0)
    assert seen["batchwright_placement_latency_seconds"] == (0.0,)
