"""Picking by method A5: the simulated table of placement.md, bursts, and agreement with sorting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from batchwright_operator.placement.scoring import Candidate, Policy, Score, ScoreContext, Weights, score
from tests.placement.candidates import CANDIDATES, EQUAL, WEIGHTS, candidate, ranking

CAPACITIES = {"a": 400.0, "b": 200.0, "c": 100.0, "d": 100.0}
RATE = 50.0


def burst(pods: int, *, policy: Policy, counted: bool, capacities: dict[str, float] | None = None) -> dict[str, int]:
    """Pods of RATE rows/s placed one by one; nothing is sampled in between."""
    capacities = capacities or CAPACITIES
    placed = dict.fromkeys(capacities, 0)

    def current(node: str) -> Candidate:
        share = RATE / capacities[node]
        return candidate(node, capacities[node], pending=placed[node] * share if counted else 0.0, share=share,
                         forecast=capacities[node])  # fmt: skip

    order = ranking(current, capacities, ScoreContext.over(map(current, capacities), EQUAL, policy))
    for _ in range(pods):
        pick = order.pick()
        assert pick is not None
        placed[pick.best.candidate.node.name] += 1
        order.touch(pick.best.candidate.node.name)
    return placed


@pytest.mark.parametrize(
    ("policy", "counted", "expected"),
    [
        ("Additive", False, {8: (8, 0, 0, 0), 12: (12, 0, 0, 0), 16: (16, 0, 0, 0)}),
        ("Additive", True, {8: (5, 1, 1, 1), 12: (7, 3, 1, 1), 16: (9, 3, 2, 2)}),
        ("Forecast", True, {8: (4, 2, 1, 1), 12: (7, 3, 1, 1), 16: (8, 4, 2, 2)}),
        ("ThroughputLeft", True, {8: (6, 2, 0, 0), 12: (7, 3, 1, 1), 16: (8, 4, 2, 2)}),
    ],
)
def test_simulated_table(policy: Policy, counted: bool, expected: dict[int, tuple[int, ...]]) -> None:
    got = {pods: tuple(burst(pods, policy=policy, counted=counted).values()) for pods in expected}
    assert got == expected


@pytest.mark.parametrize(("policy", "at_least"), [("Additive", 0.93), ("ThroughputLeft", 0.99), ("Forecast", 0.99)])
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

    order = ranking(current, placed, ScoreContext.over(map(current, placed), EQUAL))
    for _ in range(24):
        pick = order.pick()
        assert pick is not None
        placed[pick.best.candidate.node.name] += 1
        order.touch(pick.best.candidate.node.name)
    assert all(5 <= pods <= 7 for pods in placed.values()), placed


@given(CANDIDATES, st.lists(st.integers(0, 100), max_size=20), WEIGHTS)
def test_ranking_agrees_with_sorting(found: list[Candidate], changes: list[int], weights: Weights) -> None:
    """Whatever changes in between, the ranking picks what a fresh sort would."""
    now = {each.node.name: each for each in found}
    context = ScoreContext.over(found, weights)
    order = ranking(now.get, now, context)
    for change in changes:
        picked = order.pick()
        wanted = sorted((score(each, context) for each in now.values()), key=lambda each: each.rank)
        assert (picked is None) == (not wanted)
        if picked is None:
            return
        assert [picked.best, *picked.runners_up] == wanted[:4]
        name = wanted[change % len(wanted)].candidate.node.name
        if change % 7 == 0:
            del now[name]  # full
        elif change % 3 == 0:
            now[name] = replace(now[name], pending=0.0, all_replicas_here=False)  # better
        else:
            now[name] = replace(now[name], pending=now[name].pending + 0.3)  # worse
        order.touch(name)


@given(CANDIDATES, st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)), WEIGHTS)
def test_a_pod_with_special_nodes_gets_what_a_sort_with_them_would_give(
    found: list[Candidate], without: set[int], spread: set[int], weights: Weights
) -> None:
    context = ScoreContext.over(found, weights)
    order = ranking({each.node.name: each for each in found}.get, [each.node.name for each in found], context)
    special: dict[str, Score | None] = {
        each.node.name: score(replace(each, all_replicas_here=True), context)
        for number, each in enumerate(found)
        if number in spread
    }
    special |= {each.node.name: None for number, each in enumerate(found) if number in without}
    scores = [special.get(each.node.name, score(each, context)) for each in found]
    wanted = sorted((each for each in scores if each is not None), key=lambda each: each.rank)
    picked = order.pick(special)
    assert (picked is None) == (not wanted)
    assert picked is None or [picked.best, *picked.runners_up] == wanted[:4]
