"""Builders for the tests of layer-by-layer scheduling: models, requests, plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchwright_worker.layerwise.core.policy import Balanced, Fifo, Literal, Policy, RoundRobin
from batchwright_worker.layerwise.core.rollout import Rollout
from batchwright_worker.layerwise.core.scheduler import LayerScheduler, LayerStep
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Layer, ModelRequest, Prefetch

Times = tuple[int, int, int]
"""(compute, fetch, bytes)"""


def layers(*times: Times) -> tuple[Layer, ...]:
    """Layers from (compute, fetch, bytes)."""
    return tuple(Layer(compute=compute, fetch=fetch, bytes=size) for compute, fetch, size in times)


def requests(models: Mapping[str, Sequence[Layer]], *arrivals: tuple[str, int]) -> list[ModelRequest]:
    """Requests in order of submission; without arrivals one per model at time 0."""
    given = arrivals or tuple((model, 0) for model in models)
    return [
        ModelRequest(model=model, layers=models[model], arrival=arrival, order=order)
        for order, (model, arrival) in enumerate(given)
    ]


def plan(
    policy: Policy, budget: float, submitted: Sequence[ModelRequest], prefetch: Prefetch = Prefetch.WHOLE
) -> list[LayerStep]:
    """All steps of a plan."""
    scheduler = LayerScheduler(Timeline(budget, prefetch=prefetch), policy)
    for request in submitted:
        scheduler.submit(request)
    return list(iter(scheduler.step, None))


def policy_named(name: str, *, skip_limit: int = 4, fill_time: float = 6) -> Policy:
    """A policy by its name."""
    return {
        "fifo": Fifo(),
        "round_robin": RoundRobin(),
        "literal": Literal(skip_limit),
        "balanced": Balanced(skip_limit, fill_time),
        "rollout": Rollout(skip_limit, fill_time),
    }[name]


def order_of(steps: Sequence[LayerStep]) -> str:
    """The models' names in the order of the picks."""
    return "".join(step.decision.request.model for step in steps)


GOLDEN = {"A": layers((4, 1, 1), (4, 1, 1), (4, 1, 1)), "M": layers((1, 4, 4), (1, 4, 4), (1, 4, 4))}
"""methods.md C: a compute-bound and a memory-bound model of three layers each."""
