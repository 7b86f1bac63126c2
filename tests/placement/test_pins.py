"""How a pod gets to its node, and what a cluster autoscaler is told of it."""

from __future__ import annotations

import pytest

from batchwright_operator.kube.objects import Raw
from batchwright_operator.placement.binding import FEW, bind, pin_for, release
from batchwright_operator.placement.evictions import SAFE, SAFE_VOLUMES
from batchwright_operator.placement.placed_pods import model_pod
from batchwright_operator.placement.receipts import released
from batchwright_operator.processors.nodes import node_info
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import Receipt
from tests.placement.placement_objects import NOW, node, pod

RECEIPT = Receipt(node="fast", processor="cpu", load="0.10", terms={})
VOLUMES = [
    {"name": "ipc", "emptyDir": {"medium": "Memory"}},
    {"name": "tmp", "emptyDir": {}},
    {"name": "config", "configMap": {"name": "x"}},
    {"name": "mine", "emptyDir": {}},
]


def gated(**annotations: str) -> Raw:
    raw = pod("a")
    raw["metadata"]["annotations"] = raw["metadata"]["annotations"] | annotations
    raw["spec"]["volumes"] = VOLUMES
    return raw


def test_a_node_is_nominated_and_the_pod_keeps_no_trace_of_it() -> None:
    patch = bind(model_pod(gated()), RECEIPT, node_info(node("fast")), pin="Nomination")
    assert (patch.nominated_node, list(patch.patch["spec"])) == ("fast", ["schedulingGates"])


@pytest.mark.parametrize(("waiting", "pin"), [(1, "Nomination"), (FEW, "Nomination"), (FEW + 1, "Affinity")])
def test_only_in_a_burst_is_the_second_write_saved(waiting: int, pin: str) -> None:
    assert pin_for(Settings().placement_pin, waiting) == pin
    assert {pin_for("Nomination", waiting), pin_for("Affinity", waiting)} == {"Nomination", "Affinity"}


def test_for_other_schedulers_the_node_is_the_only_one_for_good() -> None:
    patch = bind(model_pod(gated()), RECEIPT, node_info(node("fast")), pin="Affinity")
    assert patch.nominated_node == ""
    required = patch.patch["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["nodeSelectorTerms"][0]["matchFields"][0]["values"] == ["fast"]


def test_an_autoscaler_is_told_that_our_own_volumes_hold_nothing_to_keep() -> None:
    info = model_pod(gated())
    bound = bind(info, RECEIPT, node_info(node("fast")), pin="Nomination")
    freed = release(info, released("cpu", "full", now=NOW))
    for patch in (bound, freed):
        assert patch.patch["metadata"]["annotations"][SAFE_VOLUMES] == "ipc,tmp"


@pytest.mark.parametrize("said", [{SAFE: "false"}, {SAFE_VOLUMES: "mine"}])
def test_what_the_user_says_of_evictions_stands(said: dict[str, str]) -> None:
    patch = bind(model_pod(gated(**said)), RECEIPT, node_info(node("fast")), pin="Nomination")
    assert not {SAFE, SAFE_VOLUMES} & patch.patch["metadata"]["annotations"].keys()
