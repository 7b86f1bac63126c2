"""Methods A4 and A5 as a pure rule: examples by hand, the tables of placement.md, and properties."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.placement.candidate_heap import CandidateHeap
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
from batchwright_operator.processors.nodes import NodeInfo, node_info
from batchwright_operator.processors.processor import Processor
from batchwright_operator.reconcile.live_state import Sample
from tests.placement.placement_objects import NOW
from tests.placement.placement_objects import node as raw_node

EQUAL = {"utilization": 1.0, "memory": 1.0, "capacity": 1.0}
CAPACITIES = {"a": 400.0, "b": 200.0, "c": 100.0, "d": 100.0}
RATE = 50.0


def node(name: str, **labels: str) -> NodeInfo:
    return node_info(raw_node(name, labels=labels))


def sample(u: float, m: float) -> Sample:
    return Sample(utilization=u, memory_utilization=m, taken_at=NOW)


def processor(capacity: float | None) -> Processor:
    return Processor(kind="cpu", capacity=capacity)


def candidate(
    name: str = "n", capacity: float | None = 100.0, u: float = 0.0, m: float = 0.0, **more: float
) -> Candidate:
    return Candidate(node=node(name), kind="cpu", processor=processor(capacity), sample=sample(u, m), **more)  # type: ignore[arg-type]


def ranked(candidates: list[Candidate], weights: Weights) -> list[Score]:
    """All of them, best first."""
    context = ScoreContext.over(candidates, weights)
    return sorted((score(each, context) for each in candidates), key=lambda each: each.rank)


# --- by hand -------------------------------------------------------------------------------------


def test_worked_example() -> None:
    """Weights 2:1:1 over a (u .5, m .2, 300/s) and b (u .3, m .4, 100/s, one unseen share of .25)."""
    a, b = candidate("a", 300.0, 0.5, 0.2), candidate("b", 100.0, 0.3, 0.4, pending=0.25)
    first, second = ranked([b, a], {"utilization": 2, "memory": 1, "capacity": 1})
    assert first.candidate is a
    assert first.load == pytest.approx((2 * 0.5 + 0.2 + 0) / 4)  # 0.30
    # (2 * .3 + .4 + 2/3 + 3 * .25) / 4
    assert second.load == pytest.approx((0.6 + 0.4 + 2 / 3 + 0.75) / 4)
    assert second.terms == pytest.approx({"utilization": 0.15, "memory": 0.1, "capacity": 1 / 6, "pending": 0.1875})


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


# --- the tables of placement.md --------------------------------------------------------------------


def burst(pods: int, *, policy: Policy, counted: bool, capacities: dict[str, float] | None = None) -> dict[str, int]:
    """Pods of RATE rows/s placed one by one on a CandidateHeap; nothing is sampled in between."""
    capacities = capacities or CAPACITIES
    placed = dict.fromkeys(capacities, 0)

    def current(node: str) -> Candidate:
        share = RATE / capacities[node]
        return candidate(node, capacities[node], pending=placed[node] * share if counted else 0.0, share=share,
                         forecast=capacities[node])  # fmt: skip

    heap = CandidateHeap(capacities, current, ScoreContext.over(map(current, capacities), EQUAL, policy))
    for _ in range(pods):
        pick = heap.pick()
        assert pick is not None
        placed[pick.best.candidate.node.name] += 1
    return placed


@pytest.mark.parametrize(
    ("policy", "counted", "expected"),
    [
        ("Additive", False, {8: (8, 0, 0, 0), 12: (12, 0, 0, 0), 16: (16, 0, 0, 0)}),
        ("Additive", True, {8: (5, 1, 1, 1), 12: (7, 3, 1, 1), 16: (9, 3, 2, 2)}),
        ("Forecast", True, {8: (4, 2, 1, 1), 12: (7, 3, 1, 1), 16: (8, 4, 2, 2)}),
    ],
)
def test_simulated_table(policy: Policy, counted: bool, expected: dict[int, tuple[int, ...]]) -> None:
    got = {pods: tuple(burst(pods, policy=policy, counted=counted).values()) for pods in expected}
    assert got == expected


@pytest.mark.parametrize(("policy", "at_least"), [("Additive", 0.93), ("Forecast", 0.99)])
def test_served_share_of_sixteen_eighths(policy: Policy, at_least: float) -> None:
    placed = burst(16, policy=policy, counted=True)
    served = sum(min(CAPACITIES[node], RATE * pods) for node, pods in placed.items())
    assert served / (16 * RATE) >= at_least


@given(noise=st.lists(st.floats(0.97, 1.03), min_size=4, max_size=4), services=st.integers(1, 16))
def test_burst_over_equal_nodes_is_even(noise: list[float], services: int) -> None:
    """24 pods over 4 nodes whose measured capacities differ by the noise of a benchmark: 6 +- 1 each."""
    placed = {f"n{i}": 0 for i in range(4)}
    capacity = {node: 100 * noise[i] for i, node in enumerate(placed)}

    def current(node: str) -> Candidate:
        return candidate(node, capacity[node], pending=placed[node] / services)

    heap = CandidateHeap(placed, current, ScoreContext.over(map(current, placed), EQUAL))
    for _ in range(24):
        pick = heap.pick()
        assert pick is not None
        placed[pick.best.candidate.node.name] += 1
    assert all(5 <= pods <= 7 for pods in placed.values()), placed


# --- properties ------------------------------------------------------------------------------------

unit = st.floats(0, 1)
candidates_strategy = st.lists(
    st.builds(
        Candidate,
        node=st.text("abcdef", min_size=1, max_size=4).map(node),
        kind=st.just("cpu"),
        processor=st.none() | (st.none() | st.floats(0.1, 1e4)).map(processor),
        sample=st.none() | st.builds(sample, unit, unit),
        pending=st.floats(0, 3),
        all_replicas_here=st.booleans(),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda each: each.node.name,
)
weights_strategy = st.fixed_dictionaries(
    {"utilization": st.floats(0, 10), "memory": st.floats(0, 10), "capacity": st.floats(0.01, 10)}
)


@given(candidates_strategy, weights_strategy, st.randoms())
def test_order_of_candidates_does_not_matter(found: list[Candidate], weights: Weights, rng: random.Random) -> None:
    shuffled = found.copy()
    rng.shuffle(shuffled)
    assert ranked(found, weights) == ranked(shuffled, weights)


@given(candidates_strategy, weights_strategy)
def test_load_is_the_sum_of_terms_in_unit_range(found: list[Candidate], weights: Weights) -> None:
    context = ScoreContext.over(found, weights)
    assert sum(context.weights.values()) == pytest.approx(1)
    for each in found:
        scored = score(replace(each, pending=0.0, all_replicas_here=False), context)
        assert all(0 <= scored.terms[name] <= weight for name, weight in context.weights.items())
        assert 0 <= scored.load <= 1 + 1e-9


@given(candidates_strategy, weights_strategy, st.sampled_from(["utilization", "memory", "pending", "slower"]), unit)
def test_monotone_in_each_term(found: list[Candidate], weights: Weights, term: str, more: float) -> None:
    """Making one candidate worse in one term never improves its load or its place."""
    context, before = ScoreContext.over(found, weights), found[0]
    seen, capacity = before.sample or sample(0, 0), before.capacity or 1.0
    before = replace(before, sample=seen, processor=processor(capacity))
    context = replace(context, max_capacity=max(context.max_capacity, capacity))
    after = {
        "utilization": replace(before, sample=replace(seen, utilization=min(1, seen.utilization + more))),
        "memory": replace(before, sample=replace(seen, memory_utilization=min(1, seen.memory_utilization + more))),
        "pending": replace(before, pending=before.pending + more),
        "slower": replace(before, processor=processor(capacity * (1 - more / 2))),
    }[term]
    assert score(after, context).load >= score(before, context).load - 1e-12
    assert score(after, context).rank >= score(before, context).rank or term == "slower"


@given(candidates_strategy, weights_strategy, st.floats(0.1, 100))
def test_only_proportions_of_weights_count(found: list[Candidate], weights: Weights, factor: float) -> None:
    scaled = {name: weight * factor for name, weight in weights.items()}
    for one, other in zip(ranked(found, weights), ranked(found, scaled), strict=True):
        assert one.load == pytest.approx(other.load)


@given(candidates_strategy, st.lists(st.integers(0, 100), max_size=20), weights_strategy)
def test_heap_agrees_with_sorting(found: list[Candidate], changes: list[int], weights: Weights) -> None:
    """Whatever grows in between, the heap picks what a fresh sort would."""
    now = {each.node.name: each for each in found}
    context = ScoreContext.over(found, weights)
    heap = CandidateHeap(now, now.get, context)
    for change in changes:
        picked = heap.pick()
        wanted = sorted((score(each, context) for each in now.values()), key=lambda each: each.rank)
        assert (picked is None) == (not wanted)
        if picked is None:
            return
        assert [picked.best, *picked.runners_up] == wanted[:4]
        name = wanted[change % len(wanted)].candidate.node.name
        if change % 7 == 0:
            del now[name]  # full
        elif change % 3 == 0:
            now[name] = replace(now[name], pending=0.0, all_replicas_here=False)  # better: announced
            heap.touch(name)
        else:
            now[name] = replace(now[name], pending=now[name].pending + 0.3)  # worse: unannounced
