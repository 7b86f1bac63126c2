"""Whole or fluid fetches: what the plan says is faster. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from batchwright_worker.layerwise.core.policy import Balanced
from batchwright_worker.layerwise.core.scheduler import LayerScheduler
from batchwright_worker.layerwise.core.simulator import run
from batchwright_worker.layerwise.core.skip_limit import auto_skip_limit, fill_time
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Layer, ModelRequest, Prefetch

__all__ = ["better_prefetch"]

_LEAST_GAIN: Final = 0.01
"""Fluid fetches are more of them: they must gain this share of the time."""
_MOST_LAYERS: Final = 200
"""Of the models that are planned, the largest first: some milliseconds."""
_RUNS: Final = 2


def better_prefetch(models: Sequence[Sequence[Layer]], budget_bytes: float, piece_bytes: int) -> Prefetch:
    """Fluid where two runs of every model end sooner with it, under balanced; pieces of `piece_bytes`."""
    planned: list[Sequence[Layer]] = []
    for layers in sorted(models, key=lambda layers: -sum(layer.bytes for layer in layers)):
        if planned and sum(map(len, planned)) + len(layers) > _MOST_LAYERS:
            break
        planned.append(layers)
    whole, fluid = (_makespan(planned, budget_bytes, piece_bytes, prefetch) for prefetch in Prefetch)
    return Prefetch.FLUID if fluid < (1 - _LEAST_GAIN) * whole else Prefetch.WHOLE


def _makespan(models: Sequence[Sequence[Layer]], budget_bytes: float, piece_bytes: int, prefetch: Prefetch) -> int:
    policy = Balanced(auto_skip_limit(models, budget_bytes), fill_time(models, budget_bytes))
    scheduler = LayerScheduler(Timeline(budget_bytes, prefetch=prefetch, piece_bytes=piece_bytes), policy)
    requests = [
        ModelRequest(model=str(number), layers=layers, arrival=0, order=turn * len(models) + number)
        for turn in range(_RUNS)
        for number, layers in enumerate(models)
    ]
    run(scheduler, requests)
    return scheduler.timeline.compute_free
