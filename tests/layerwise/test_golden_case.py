"""The golden case of method C in all its variants, computed by hand there (B = 6, both models at time 0)."""

from __future__ import annotations

import pytest

from batchwright_worker.layerwise.core.policy import Balanced, Fifo, Literal, Policy, RoundRobin
from batchwright_worker.layerwise.core.values import Prefetch
from tests.layerwise.instances import GOLDEN, order_of, plan, requests

ONE_AT_A_TIME = [(1, 0), (0, 0), (0, 0), (0, 2), (4, 5), (4, 1)]


@pytest.mark.parametrize("policy", [Fifo(), Literal(0)], ids=["fifo", "literal without guard"])
def test_one_model_after_the_other_leaves_both_engines_idle(policy: Policy) -> None:
    steps = plan(policy, 6, requests(GOLDEN))
    assert order_of(steps) == "AAAMMM"
    assert [tuple(step.placement.idle) for step in steps] == ONE_AT_A_TIME
    assert steps[-1].placement.compute_end == 24


@pytest.mark.parametrize(
    "policy",
    [RoundRobin(), Literal(1), Balanced(0, 6), Balanced(16, 6)],
    ids=["round robin", "literal, N = 1", "balanced without guard", "balanced"],
)
def test_taking_turns_fills_the_gaps(policy: Policy) -> None:
    steps = plan(policy, 6, requests(GOLDEN))
    assert order_of(steps) == "AMAMAM"
    assert sum(step.placement.idle.compute for step in steps) == 1
    assert sum(step.placement.idle.memory for step in steps) == 0
    assert steps[-1].placement.compute_end == 16


@pytest.mark.parametrize(
    "policy", [Fifo(), RoundRobin(), Literal(0), Literal(1), Balanced(16, 100)], ids=lambda policy: policy.name
)
def test_with_room_for_all_every_order_is_as_good(policy: Policy) -> None:
    steps = plan(policy, 100, requests(GOLDEN))
    assert steps[-1].placement.compute_end == 16
    assert all(step.placement.idle.memory == 0 for step in steps)


def test_fluid_prefetch_uses_what_room_there_is() -> None:
    """By hand: M's second fetch runs 9-10, 13-16 and its third 16-20; compute waits 1 + 2 + 3."""
    steps = plan(Fifo(), 6, requests(GOLDEN), Prefetch.FLUID)
    assert [tuple(step.placement.idle) for step in steps] == [(1, 0), (0, 0), (0, 0), (0, 0), (2, 5), (3, 0)]
    assert steps[-1].placement.compute_end == 21
    assert steps[4].placement.fetch_start == 9
