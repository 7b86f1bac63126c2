"""How far from the best order (layerwise.md, acceptance 6): exhaustive search by a recurrence of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright_worker.layerwise.core.rollout import HORIZON_LAYERS, Head, Way
from batchwright_worker.layerwise.core.simulator import SimulatedAccelerator, alone, closed_loop, stp
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Candidate, Layer, Prefetch
from batchwright_worker.layerwise.tools.bound import stp_bound
from batchwright_worker.layerwise.tools.instance import policy_of
from tests.layerwise.instances import layers as layers_of
from tests.layerwise.instances import plan, requests

Held = tuple[tuple[float, int], ...]
"""(end of compute, bytes) of what may still be in memory, oldest first."""


def best_makespan(models: Sequence[Sequence[Layer]], budget: float) -> float:
    """The smallest makespan over all orders that keep each model's own order (branch and bound)."""
    least = math.inf

    def go_on(done: tuple[int, ...], fetched: float, computed: float, held: Held) -> None:
        nonlocal least
        if computed >= least:
            return
        if all(count == len(layers) for count, layers in zip(done, models, strict=True)):
            least = computed
            return
        for number, (count, layers) in enumerate(zip(done, models, strict=True)):
            if count < len(layers):
                after = (*done[:number], count + 1, *done[number + 1 :])
                go_on(after, *placed(layers[count], fetched, computed, held, budget))

    go_on((0,) * len(models), 0, 0, ())
    return least


def placed(layer: Layer, fetched: float, computed: float, held: Held, budget: float) -> tuple[float, float, Held]:
    """The recurrence of methods C for one layer: (Me, Ce, what is in memory then)."""
    start = fetched
    held = tuple(entry for entry in held if entry[0] > start)
    while sum(size for _, size in held) + layer.bytes > budget:
        start, held = held[0][0], held[1:]
    end = max(start + layer.fetch, computed) + layer.compute
    return start + layer.fetch, end, (*held, (end, layer.bytes))


def random_models(random: np.random.Generator) -> dict[str, list[Layer]]:
    """Two models of six layers; compute and fetch up to 1.00 (hundredths), a unit of fetch is a unit of memory."""

    def layer() -> Layer:
        compute, fetch = (int(hundredths) for hundredths in random.integers(1, 101, 2))
        return Layer(compute=compute, fetch=fetch, bytes=fetch)

    return {name: [layer() for _ in range(6)] for name in ("a", "b")}


def test_the_search_finds_the_golden_cases_best() -> None:
    models = [[Layer(compute=4, fetch=1, bytes=1)] * 3, [Layer(compute=1, fetch=4, bytes=4)] * 3]
    assert best_makespan(models, 6) == 16


@pytest.mark.slow
def test_balanced_is_within_five_percent_of_the_best_order_on_average() -> None:
    random = np.random.default_rng(1)
    above = []
    for budget in (200, 400, math.inf):
        for _ in range(100):
            models = random_models(random)
            policy = policy_of("balanced", list(models.values()), budget, skip_limit=None, theta=0.5)
            makespan = plan(policy, budget, requests(models))[-1].placement.compute_end
            above.append(makespan / best_makespan(list(models.values()), budget))
    assert min(above) >= 1
    assert np.mean(above) <= 1.05


Times = Sequence[tuple[float, float]]


def network(times: Times) -> list[Layer]:
    """Layers of (compute, fetch); a unit of fetch is a unit of memory."""
    return [Layer(compute=max(1, round(c)), fetch=max(1, round(w)), bytes=max(1, round(w))) for c, w in times]


def of_kind(kind: str, random: np.random.Generator) -> list[Layer]:
    """Six layers of a compute-bound or memory-bound network, of a convolutional one (weights double from layer to
    layer), of that one reversed, of one with a giant first layer, or of anything."""
    even = random.uniform(0.8, 1.2, 6)
    convolutional = [(60 * share, 4 * 2**depth * share) for depth, share in enumerate(even)]
    match kind:
        case "compute":
            return network(list(zip(random.integers(50, 101, 6), random.integers(5, 26, 6), strict=True)))
        case "memory":
            return network(list(zip(random.integers(5, 26, 6), random.integers(50, 101, 6), strict=True)))
        case "convolutional":
            return network(convolutional)
        case "reversed":
            return network(convolutional[::-1])
        case "giant":
            return network([(10, 200), *zip(random.integers(5, 26, 5), random.integers(50, 101, 5), strict=True)])
    return network(list(zip(random.integers(1, 101, 6), random.integers(1, 101, 6), strict=True)))


def above_the_best(policy: str, kinds: tuple[str, str], factor: float, random: np.random.Generator) -> float:
    """By how much (a share) the policy's order takes longer; the memory is `factor` of the largest layer."""
    models = {name: of_kind(kind, random) for name, kind in zip("ab", kinds, strict=True)}
    budget = int(factor * max(layer.bytes for layers in models.values() for layer in layers))
    chosen = policy_of(policy, list(models.values()), budget, skip_limit=0)
    makespan = plan(chosen, budget, requests(models))[-1].placement.compute_end
    return makespan / best_makespan(list(models.values()), budget) - 1


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.1, 2.0, 4.0])
@pytest.mark.parametrize(
    "kinds",
    [
        ("random", "random"),
        ("compute", "memory"),
        ("convolutional", "convolutional"),
        ("convolutional", "reversed"),
        ("convolutional", "memory"),
        ("compute", "giant"),
    ],
    ids=" and ".join,
)
def test_rollout_is_near_the_best_order_whatever_the_networks_are(kinds: tuple[str, str], factor: float) -> None:
    random = np.random.default_rng(5)
    above = [above_the_best("rollout", kinds, factor, random) for _ in range(10)]
    assert min(above) >= 0
    assert np.mean(above) <= 0.03
    assert max(above) <= 0.10


def share_of_bound(policy: str, kinds: tuple[str, ...], factor: float, seed: int) -> float:
    """System throughput in a closed loop over the bound by linear programming."""
    random = np.random.default_rng(seed)
    models = {f"{kind} {number}": of_kind(kind, random) for number, kind in enumerate(kinds)}
    layers = list(models.values())
    budget = int(factor * max(layer.bytes for each in layers for layer in each))
    accelerator = SimulatedAccelerator(budget_bytes=budget)
    rates_alone = alone(models, accelerator, runs=20)
    until = 20 * sum(layer.compute + layer.fetch for each in layers for layer in each)
    rates = closed_loop(models, policy_of(policy, layers, budget, skip_limit=None), accelerator, until=until).rates
    return stp(rates, rates_alone) / stp_bound(models, rates_alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds",
    [
        ("compute", "memory"),
        ("convolutional", "memory"),
        ("random", "random"),
        ("compute", "convolutional", "memory", "giant"),
    ],
    ids=" and ".join,
)
def test_rollout_serves_no_less_than_balanced_in_a_closed_loop(kinds: tuple[str, ...]) -> None:
    """On average over networks of these kinds. Plain rollout, which left balanced's way for any gain, lost up to 9 %
    with four networks."""
    for factor in (1.05, 2.0, 4.0):
        balanced, rollout = (
            np.mean([share_of_bound(policy, kinds, factor, seed) for seed in range(3)])
            for policy in ("balanced", "rollout")
        )
        assert rollout >= 0.99 * balanced, factor


@settings(deadline=None)
@given(st.data())
def test_a_way_of_rollout_is_what_the_timeline_makes_of_its_order(draw: st.DataObject) -> None:
    times = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=4)
    models = {name: layers_of(*draw.draw(times)) for name in "ab"}
    budget = draw.draw(st.sampled_from([6, 9, math.inf]))
    prefetch = draw.draw(st.sampled_from(list(Prefetch)))
    timeline = Timeline(budget, prefetch=prefetch)
    for compute, fetch, size in draw.draw(times):  # in flight before
        timeline.push(Layer(compute=compute, fetch=fetch, bytes=size), 0)
    heads = [Candidate(request=each) for each in requests(models, ("a", 0), ("b", draw.draw(st.integers(0, 20))))]
    way = Way(timeline, [Head(head, HORIZON_LAYERS) for head in heads])
    while left := [number for number, head in enumerate(heads) if head.position < len(head.request.layers)]:
        number = draw.draw(st.sampled_from(left))
        way.put(number)
        timeline.push(heads[number].layer, heads[number].request.arrival)
        heads[number].position += 1
        assert (way.memory_free, way.compute_free) == (timeline.memory_free, timeline.compute_free)
    assert way.value == max(timeline.memory_free, timeline.compute_free)
