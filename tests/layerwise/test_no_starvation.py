"""With the guard no model waits for ever; without it one does (methods C4; layerwise.md, acceptance 4)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest

from batchwright_worker.layerwise.core.policy import Balanced, Literal, Policy
from batchwright_worker.layerwise.core.scheduler import LayerScheduler
from batchwright_worker.layerwise.core.skip_limit import auto_skip_limit, fill_time
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Layer, ModelRequest, Prefetch
from tests.layerwise.instances import GOLDEN, layers

Models = Mapping[str, Sequence[Layer]]


def most_skips(models: Models, policy: Policy, budget: float, prefetch: Prefetch, decisions: int = 300) -> int:
    """The most often that any model's next layer was passed over, every model always having a request."""
    scheduler = LayerScheduler(Timeline(budget, prefetch=prefetch), policy)
    orders = itertools.count()
    for model in models:
        scheduler.submit(ModelRequest(model=model, layers=models[model], arrival=0, order=next(orders)))
    worst = 0
    for _ in range(decisions):
        now = scheduler.timeline.memory_free
        step = scheduler.step()
        assert step is not None
        worst = max([worst, *(waiting.skips for waiting in scheduler.ready.candidates(now))])
        if step.decision.last:
            model = step.decision.request.model
            scheduler.submit(ModelRequest(model=model, layers=models[model], arrival=now, order=next(orders)))
    return worst


def adversaries(number: int) -> Iterable[Models]:
    """Mixes of `number` models: one with large weights among small ones, the reverse, all alike, and random ones."""
    small, large = layers((4, 1, 1)), layers((1, 6, 6))
    yield {f"m{n}": large if n == 0 else small for n in range(number)}
    yield {f"m{n}": small if n == 0 else large for n in range(number)}
    yield {f"m{n}": small for n in range(number)}
    random = np.random.default_rng(number)
    for _ in range(3):
        yield {
            f"m{n}": layers(*[tuple(map(int, random.integers((0, 0, 0), (9, 9, 7)))) for _ in range(4)])  # type: ignore[misc]
            for n in range(number)
        }


@pytest.mark.parametrize("skip_limit", [1, 4, 16])
@pytest.mark.parametrize("number", range(2, 9))
def test_no_layer_is_passed_over_more_often_than_the_limit_and_the_others_allow(number: int, skip_limit: int) -> None:
    for models in adversaries(number):
        for policy in (Literal(skip_limit), Balanced(skip_limit, 6)):
            for prefetch in Prefetch:
                assert most_skips(models, policy, 6, prefetch) <= skip_limit + number - 2


def test_the_bound_is_reached() -> None:
    models = {f"m{n}": layers((4, 1, 1)) if n == 0 else layers((1, 6, 6)) for n in range(8)}
    assert most_skips(models, Literal(4), 6, Prefetch.WHOLE) == 4 + 8 - 2


def test_without_the_guard_the_model_with_large_weights_starves() -> None:
    assert most_skips(GOLDEN, Literal(0), 6, Prefetch.WHOLE, decisions=900) > 890


def test_a_boundless_memory_starves_nobody() -> None:
    models = list(GOLDEN.values())
    policy = Balanced(auto_skip_limit(models, math.inf), fill_time(models, math.inf))
    assert most_skips(GOLDEN, policy, math.inf, Prefetch.WHOLE) <= 8
