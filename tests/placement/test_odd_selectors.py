"""Labels, affinities and tolerations of strangers, as kube-scheduler reads them."""

from __future__ import annotations

import pytest

from batchwright_operator.kube.objects import Raw
from batchwright_operator.placement.demand import Demand
from batchwright_operator.placement.filter import rejection_of
from batchwright_operator.processors.nodes import node_info
from batchwright_operator.processors.start import tolerates
from batchwright_worker.api.names import KIND_CPU
from tests.placement.placement_objects import node


def reason(value: str, operator: str, *wanted: str) -> str:
    """Why a node whose label `n` has this value is left out by a node affinity."""
    term = {"matchExpressions": [{"key": "n", "operator": operator, "values": list(wanted)}]}
    demand = Demand(kind=KIND_CPU, requests={}, node_terms=((term,),))
    info = node_info(node("a", labels={"n": value, "batchwright.dev/benchmark": "false"}))
    found = rejection_of(demand, info, {}, None)
    return "" if found is None else found.reason


@pytest.mark.parametrize(("value", "operator", "wanted", "fits"), [
    ("10", "Gt", "9", True),
    ("9", "Gt", "9", False),
    ("8", "Lt", "9", True),
    ("-1", "Lt", "0", True),
    ("1_000", "Gt", "9", False),  # a number to Python alone
    ("1e3", "Gt", "9", False),
    ("", "Lt", "9", False),
    ("99999999999999999999", "Gt", "9", False),  # beyond 64 bits
    ("ten", "Lt", "9", False),
])  # fmt: skip
def test_numbers_are_compared_as_the_scheduler_does(value: str, operator: str, wanted: str, fits: bool) -> None:
    assert (reason(value, operator, wanted) != "out of reach") is fits
    assert reason(value, operator) == "out of reach", "without a number to compare with nothing fits"


@pytest.mark.parametrize(("toleration", "tolerated"), [
    ({"operator": "Exists"}, True),
    ({"key": "k", "operator": "Exists"}, True),
    ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
    ({"key": "k", "value": "5"}, True),
    ({"key": "k", "operator": "", "value": "5"}, True),
    ({"key": "k", "operator": "Equal"}, False),
    ({"key": "k", "operator": "Gt", "value": "5"}, False),  # of a newer Kubernetes: left to its scheduler
    ({"value": "5"}, False),
])  # fmt: skip
def test_tolerations(toleration: Raw, tolerated: bool) -> None:
    assert tolerates(toleration, {"key": "k", "value": "5", "effect": "NoSchedule"}) is tolerated


@pytest.mark.parametrize("allocatable", [None, {}, {"cpu": "0"}, {"cpu": "4", "memory": "8Gi"}, {"pods": "110"}])
def test_a_node_that_says_little_has_room_for_nothing(allocatable: dict[str, str] | None) -> None:
    raw = node("a")
    raw["status"]["allocatable"] = allocatable
    demand = Demand(kind=KIND_CPU, requests={"cpu": 1.0, "pods": 1.0})
    found = rejection_of(demand, node_info(raw), {}, None)
    assert found is not None
    assert found.reason.startswith(("insufficient", "without"))


@pytest.mark.parametrize(
    ("cpu", "fits"), [("1500m", True), ("1.5", True), ("1499m", False), ("1.5e0", True), ("0.0015k", True)]
)
def test_amounts_are_what_their_units_say(cpu: str, fits: bool) -> None:
    demand = Demand(kind=KIND_CPU, requests={"cpu": 1.5, "pods": 1.0})
    found = rejection_of(demand, node_info(node("a", cpu=cpu)), {}, None)
    assert (found is None or found.reason == "awaiting its first benchmark") is fits
