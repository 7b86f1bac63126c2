"""The bounds that schedules are compared with: none beats them, and they know what they say they know."""

from __future__ import annotations

import numpy as np
import pytest

from batchwright_worker.layerwise.core.simulator import SimulatedAccelerator, alone, closed_loop, stp
from batchwright_worker.layerwise.core.skip_limit import auto_skip_limit
from batchwright_worker.layerwise.core.values import Prefetch
from batchwright_worker.layerwise.tools.bound import ScheduleLimits, best_rates, stp_bound
from batchwright_worker.layerwise.tools.instance import policy_of
from batchwright_worker.layerwise.tools.kinds import of_kind
from tests.layerwise.instances import layers


def test_what_fills_the_memory_overlaps_with_nothing() -> None:
    """Layers of 10 bytes in 10: one engine works at a time, and two models give what one gives; in 15, half of each
    fetch is hidden; in 20 all of it."""
    models = {"a": layers((10, 10, 10)), "b": layers((10, 10, 10))}
    rates = {"a": 1 / 20, "b": 1 / 20}
    shares = [stp_bound(models, rates, ScheduleLimits(budget_bytes=budget)) for budget in (10, 15, 20, 1000)]
    assert shares == pytest.approx([1.0, 4 / 3, 2.0, 2.0])
    assert shares[-1] == pytest.approx(stp_bound(models, rates))


def test_the_guard_serves_a_model_that_the_bound_would_leave_out() -> None:
    """`c` takes as much of both engines as `a` and `b` together, and is worth as much as one of them."""
    models = {"a": layers((10, 1, 1)), "b": layers((1, 10, 10)), "c": layers((10, 10, 10))}
    rates = {"a": 1 / 11, "b": 1 / 11, "c": 1 / 11}
    assert best_rates(models, rates)["c"] == pytest.approx(0, abs=1e-6)
    guarded = best_rates(models, rates, ScheduleLimits(skip_limit=2))
    assert guarded["c"] == pytest.approx(sum(guarded.values()) / 4)


@pytest.mark.parametrize("prefetch", list(Prefetch))
@pytest.mark.parametrize("factor", [1.05, 2.0, 4.0])
@pytest.mark.parametrize("kinds", [("even", "even"), ("compute", "memory"), ("compute", "convolutional", "giant")])
def test_no_schedule_beats_the_bound_that_knows_memory_and_guard(
    kinds: tuple[str, ...], factor: float, prefetch: Prefetch
) -> None:
    random = np.random.default_rng(4)
    models = {f"{kind} {number}": of_kind(kind, random) for number, kind in enumerate(kinds)}
    budget = int(factor * max(layer.bytes for each in models.values() for layer in each))
    accelerator = SimulatedAccelerator(budget_bytes=budget, prefetch=prefetch)
    rates_alone = alone(models, accelerator, runs=10)
    limit = auto_skip_limit(list(models.values()), budget)
    bound = stp_bound(models, rates_alone, ScheduleLimits(budget_bytes=budget, skip_limit=limit))
    assert bound <= 1.000001 * stp_bound(models, rates_alone)
    until = 20 * sum(layer.compute + layer.fetch for each in models.values() for layer in each)
    for policy in ("balanced", "literal"):
        chosen = policy_of(policy, list(models.values()), budget, skip_limit=limit)
        reached = stp(closed_loop(models, chosen, accelerator, until=until).rates, rates_alone)
        assert reached <= 1.02 * bound, policy  # what ends in a finite window
