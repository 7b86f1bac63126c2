"""A kubelet that refuses pods (no healthy device, less of a resource than its Node says): its node is left alone for a
while, which grows, though the pods that it refused use nothing and the node looks as free as before."""

from __future__ import annotations

from typing import Any

import pytest

from batchwright_operator.kube.objects import NODE, POD, Raw
from batchwright_operator.placement.refusals import FIRST_S, LAST_S
from batchwright_operator.reconcile.decisions import Patch
from batchwright_worker.api.names import ANNOTATION_RECEIPT
from tests.placement.placement_objects import NOW, applied, forged, node
from tests.placement.test_cycle import Cluster, moved, placed, told


class Refusing(Cluster):
    """A cluster with a deployment `ocr`, whose kubelets may refuse."""

    def __init__(self, nodes: int = 1) -> None:
        super().__init__(nodes)
        self.deploy()

    def place(self, name: str, at: float = NOW, **how: Any) -> str:
        """Where a new pod is placed at that time, which runs there then; empty: nowhere."""
        raw = self.wait(name, age_s=NOW - at + 1.0, **how)
        return self.again(raw, at)

    def again(self, raw: Raw, at: float) -> str:
        """The same of a pod that waits already."""
        name = raw["metadata"]["name"]
        decision = self.decide(at)
        if not (where := placed(decision.actions).get(name, "")):
            self.apply(decision.actions)
            return ""
        [patch] = [each for each in decision.actions if isinstance(each, Patch) and each.name == name]
        bound = applied(raw, patch)
        self.put(POD, {**bound, "spec": {**bound["spec"], "nodeName": where}})
        return where

    def end(self, name: str, reason: str = "UnexpectedAdmissionError") -> None:
        """Its kubelet refuses it; without a reason it fails by its own doing."""
        raw = self.store.get(POD, "user", name)
        assert raw is not None
        self.put(POD, ended(raw, reason))


def ended(raw: Raw, reason: str) -> Raw:
    return {**raw, "status": {"phase": "Failed"} | ({"reason": reason} if reason else {})}


@pytest.mark.parametrize("reason", ["UnexpectedAdmissionError", "OutOfcpu", "OutOfnvidia.com/gpu", "Evicted"])
def test_the_next_pod_goes_elsewhere(reason: str) -> None:
    cluster = Refusing(2)
    first = cluster.place("a")
    cluster.end("a", reason)
    assert cluster.place("b") not in ("", first)


def test_a_pod_that_fails_by_its_own_doing_is_no_refusal() -> None:
    cluster = Refusing(2)
    first = cluster.place("a")
    cluster.end("a", "")
    assert cluster.place("b") == first


def test_the_only_node_is_tried_again_after_a_while_that_grows_and_the_scheduler_sends_nobody_there() -> None:
    cluster, at = Refusing(), NOW
    assert cluster.place("p0", at) == "n0"
    for number, rest_s in enumerate((FIRST_S, 2 * FIRST_S, 4 * FIRST_S)):
        cluster.end(f"p{number}")
        raw = cluster.wait(f"p{number + 1}", age_s=NOW - at - 1.0)
        decision = cluster.decide(at + 2.0)
        assert told(decision.actions) == ["NoFittingProcessor: none of 1 node fits: 1 turned its pods away lately"]
        cluster.apply(decision.actions)
        assert cluster.decide(at + rest_s - 0.5).actions == (), "neither placed, nor released without a node"
        assert cluster.again(raw, at + rest_s + 1.0) == "n0"
        at += rest_s + 1.0


def test_it_never_rests_for_longer_than_the_longest_rest() -> None:
    cluster, at = Refusing(), NOW
    for number in range(12):
        assert cluster.place(f"p{number}", at) == "n0"
        cluster.end(f"p{number}")
        at += LAST_S + 1.0


def test_a_node_that_changes_is_tried_at_once_and_a_heartbeat_is_no_change() -> None:
    cluster = Refusing()
    assert cluster.place("a") == "n0"
    cluster.end("a")
    cluster.put(NODE, node("n0"))
    raw = cluster.wait("b")
    assert cluster.again(raw, NOW) == ""
    cluster.put(NODE, node("n0", cpu="3"))
    assert cluster.again(raw, NOW) == "n0"


def test_others_are_not_concerned_nor_is_anybody_by_pods_that_are_not_ours() -> None:
    cluster = Refusing()
    cluster.put(POD, ended(moved(forged("x", nodeName="n0", schedulingGates=[]), "user"), "OutOfcpu"))
    assert cluster.place("a") == "n0"
    cluster.end("a")
    cluster.deploy("other")
    assert cluster.place("b", owner="other") == "n0"


def test_pods_that_were_cleared_away_count_no_more() -> None:
    cluster = Refusing()
    assert cluster.place("a") == "n0"
    cluster.end("a")
    raw = cluster.wait("b")
    assert cluster.again(raw, NOW) == ""
    cluster.store.not_found(POD, "user", "a")
    assert placed(cluster.decide().actions) == {"b": "n0"}


def test_a_receipt_from_the_future_keeps_no_node_from_anybody() -> None:
    cluster = Refusing()
    assert cluster.place("a") == "n0"
    raw = cluster.store.get(POD, "user", "a")
    assert raw is not None
    notes = raw["metadata"]["annotations"]
    forged_receipt = notes[ANNOTATION_RECEIPT].replace("2027-", "9999-")
    assert forged_receipt != notes[ANNOTATION_RECEIPT]
    head = raw["metadata"] | {"annotations": notes | {ANNOTATION_RECEIPT: forged_receipt}}
    cluster.put(POD, ended({**raw, "metadata": head}, "OutOfcpu"))
    assert cluster.place("b") == "n0"
