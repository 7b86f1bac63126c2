"""Methods A4 and A5 as a pure rule: examples by hand, and properties."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from batchwright_operator.placement.scoring import (
    Candidate,
    Policy,
    Score,
    ScoreContext,
    Weights,
    expected_share,
    normalised,
    score,
)
from tests.placement.candidates import CANDIDATES, EQUAL, UNIT, WEIGHTS, candidate, processor, sample


def ranked(candidates: list[Candidate], weights: Weights, policy: Policy = "Additive") -> list[Score]:
    """All of them, best first."""
    context = ScoreContext.over(candidates, weights, policy)
    return sorted((score(each, context) for each in candidates), key=lambda each: each.rank)


# --- by hand -------------------------------------------------------------------------------------


def test_worked_example() -> None:
    """Weights 2:1:1 over a (u .5, m .2, 300/s) and b (u .3, m .4, 100/s, one unseen share of .25)."""
    a, b = candidate("a", 300.0, 0.5, 0.2), candidate("b", 100.0, 0.3, 0.4, pending=0.25)
    first, second = ranked([b, a], {**dict.fromkeys(EQUAL, 0.0), "utilization": 2, "memory": 1, "capacity": 1})
    assert first.candidate is a
    assert first.load == pytest.approx((2 * 0.5 + 0.2 + 0) / 4)  # 0.30
    # (2 * .3 + .4 + 2/3 + 3 * .25) / 4
    assert second.load == pytest.approx((0.6 + 0.4 + 2 / 3 + 0.75) / 4)
    values = {"utilization": 0.15, "memory": 0.1, "capacity": 1 / 6, "pending": 0.1875}
    assert {name: second.terms[name] for name in values} == pytest.approx(values)


@pytest.mark.parametrize(
    ("candidates", "order"),
    [
        ([candidate("b"), candidate("a")], "ab"),
        ([candidate("a", 100.0, u=1 / 3), candidate("b", 150.0, u=2 / 3)], "ba"),  # equal loads: the larger capacity
        ([replace(candidate("a", 400.0), sample=None), candidate("b", 1.0, u=1.0, m=1.0)], "ba"),
        ([candidate("a", None), candidate("b", 1.0, u=1.0, m=1.0)], "ba"),
        ([candidate("a", None, u=0.9), candidate("b", None, u=0.1)], "ba"),
        ([replace(candidate("a", 400.0), sample=None), candidate("b", None, u=1.0)], "ba"),
    ],
    ids=["name", "capacity", "unknown last", "unbenchmarked last", "unbenchmarked by utilization", "sample over table"],
)
def test_order(candidates: list[Candidate], order: str) -> None:
    assert "".join(each.candidate.node.name for each in ranked(candidates, EQUAL)) == order


@pytest.mark.parametrize("weights", [EQUAL | {"utilization": -1}, dict.fromkeys(EQUAL, 0.0), {}])
def test_impossible_weights_are_refused(weights: Weights) -> None:
    with pytest.raises(ValueError, match=r"placement\.weights"):
        normalised(weights)


@pytest.mark.parametrize(
    ("target", "forecast", "services", "share"),
    [(50, 200, 4, 0.25), (None, 200, 4, 0.25), (50, None, 5, 0.2), (50, None, None, 1.0), (None, None, 0, 1.0)],
)
def test_expected_share(target: float | None, forecast: float | None, services: int | None, share: float) -> None:
    assert expected_share(target=target, forecast=forecast, max_services=services) == pytest.approx(share)


# --- properties ------------------------------------------------------------------------------------


POLICIES = st.sampled_from(["Additive", "ThroughputLeft", "Forecast"])


@given(CANDIDATES, WEIGHTS, POLICIES, st.randoms())
def test_order_of_candidates_does_not_matter(
    found: list[Candidate], weights: Weights, policy: Policy, rng: random.Random
) -> None:
    shuffled = found.copy()
    rng.shuffle(shuffled)
    assert ranked(found, weights, policy) == ranked(shuffled, weights, policy)


@given(CANDIDATES, UNIT, UNIT)
def test_throughput_left_is_what_the_load_says(found: list[Candidate], busy: float, promised: float) -> None:
    """1 - left / max while something is left; the part beyond what there is where nothing is."""
    context = ScoreContext.over(found, EQUAL, "ThroughputLeft")
    for each in found:
        one = replace(each, sample=sample(busy, 0.5), pending=promised, all_replicas_here=False)
        if context.policy == "ThroughputLeft" and one.capacity is not None:
            left = one.capacity * max(0.0, 1.0 - busy - promised)
            beyond = max(0.0, busy + promised - 1.0)
            assert score(one, context).load == pytest.approx(1.0 - left / context.max_capacity + beyond)


@given(CANDIDATES, WEIGHTS)
def test_load_is_the_sum_of_terms_in_unit_range(found: list[Candidate], weights: Weights) -> None:
    context = ScoreContext.over(found, weights)
    assert sum(context.weights.values()) == pytest.approx(1)
    for each in found:
        scored = score(replace(each, pending=0.0, all_replicas_here=False), context)
        assert all(0 <= scored.terms[name] <= weight for name, weight in context.weights.items())
        assert 0 <= scored.load <= 1 + 1e-9


@given(CANDIDATES, WEIGHTS, POLICIES, st.sampled_from(["utilization", "memory", "pending", "slower"]), UNIT)
def test_monotone_in_each_term(
    found: list[Candidate], weights: Weights, policy: Policy, term: str, more: float
) -> None:
    """Making one candidate worse in one term never improves its load or its place."""
    context, before = ScoreContext.over(found, weights, policy), found[0]
    seen, capacity = before.sample or sample(0, 0), before.capacity or 1.0
    before = replace(before, sample=seen, processor=processor(capacity))
    context = replace(context, max_capacity=max(context.max_capacity, capacity))
    after = {
        "utilization": replace(before, sample=sample(min(1, seen.utilization + more), seen.memory_utilization)),
        "memory": replace(before, sample=sample(seen.utilization, min(1, seen.memory_utilization + more))),
        "pending": replace(before, pending=before.pending + more),
        "slower": replace(before, processor=processor(capacity * (1 - more / 2))),
    }[term]
    assert score(after, context).load >= score(before, context).load - 1e-12
    assert score(after, context).rank >= score(before, context).rank or term == "slower"


@given(CANDIDATES, WEIGHTS, st.floats(0.1, 100))
def test_only_proportions_of_weights_count(found: list[Candidate], weights: Weights, factor: float) -> None:
    scaled = {name: weight * factor for name, weight in weights.items()}
    for one, other in zip(ranked(found, weights), ranked(found, scaled), strict=True):
        assert one.load == pytest.approx(other.load)
