"""Simulation of an accelerator under a load, with the `LayerScheduler` that executors run. Pure.

    finite batch   `run(scheduler, requests)`: all steps until nothing is left
    closed loop    `closed_loop(...)`: every model always has a request; rates in the steady state
    open loop      `poisson(...)` makes the requests (the caller brings the generator, seeded), `run` serves them

STP (system throughput) is the sum over models of rate / rate alone: 1.0 is what taking turns gives. ANTT is the mean of
latency / latency alone on an idle accelerator. Times are steps (`core.steps`), rates runs per step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from batchwright_worker.layerwise.core.policy import Fifo, Policy
from batchwright_worker.layerwise.core.scheduler import LayerScheduler, LayerStep
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Layer, ModelRequest, Prefetch

__all__ = [
    "Latencies",
    "SimulatedAccelerator",
    "Throughput",
    "alone",
    "closed_loop",
    "latencies",
    "poisson",
    "run",
    "stp",
]

Models = Mapping[str, Sequence[Layer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedAccelerator:
    """The memory that a timeline is built for."""

    budget_bytes: float
    prefetch: Prefetch = Prefetch.WHOLE

    def scheduler(self, policy: Policy) -> LayerScheduler:
        """A fresh plan from time 0."""
        return LayerScheduler(Timeline(self.budget_bytes, prefetch=self.prefetch), policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Steady state of a closed loop: runs per step of every model, and the share of time either engine worked."""

    rates: Mapping[str, float]
    compute_busy: float
    memory_busy: float
    most_skips: int


class RandomGenerator(Protocol):
    """What `poisson` needs of numpy's random Generator."""

    def exponential(self, scale: float) -> float: ...


def run(scheduler: LayerScheduler, requests: Sequence[ModelRequest]) -> list[LayerStep]:
    """Submit all requests and place every layer."""
    for request in requests:
        scheduler.submit(request)
    return list(iter(scheduler.step, None))


def closed_loop(models: Models, policy: Policy, accelerator: SimulatedAccelerator, *, until: float) -> Throughput:
    """Rates over (until/5, until]. A model's next request arrives when the last layer of the one before is picked, so
    that its first layers can be fetched behind it; a run counts by the share of its work that ends in the window."""
    scheduler = accelerator.scheduler(policy)
    for order, (model, layers) in enumerate(models.items()):
        scheduler.submit(ModelRequest(model=model, layers=layers, arrival=0, order=order))
    whole = {model: sum(layer.compute + layer.fetch for layer in layers) for model, layers in models.items()}
    done = dict.fromkeys(models, 0.0)
    busy = [0.0, 0.0]
    order, most_skips, since = len(models), 0, until / 5
    while True:
        now = scheduler.timeline.memory_free
        step = scheduler.step()
        assert step is not None
        decision, placement = step
        if placement.fetch_start > until:
            break
        layer, model = decision.layer, decision.request.model
        if since < placement.compute_end <= until:
            done[model] += (layer.compute + layer.fetch) / whole[model]
            busy[0] += layer.compute
            busy[1] += layer.fetch
        most_skips = max(most_skips, decision.skips)
        if decision.last:
            scheduler.submit(ModelRequest(model=model, layers=models[model], arrival=now, order=order))
            order += 1
    span = until - since
    rates = {model: runs / span for model, runs in done.items()}
    return Throughput(rates=rates, compute_busy=busy[0] / span, memory_busy=busy[1] / span, most_skips=most_skips)


def alone(models: Models, accelerator: SimulatedAccelerator, *, runs: int = 40) -> dict[str, float]:
    """Every model's rate in a closed loop of its own (its next run's layers prefetched)."""
    rates = {}
    for model, layers in models.items():
        until = runs * sum(layer.compute + layer.fetch for layer in layers)
        rates[model] = closed_loop({model: layers}, Fifo(), accelerator, until=until).rates[model]
    return rates


def stp(rates: Mapping[str, float], rates_alone: Mapping[str, float]) -> float:
    """System throughput over running the models one at a time."""
    return sum(rate / rates_alone[model] for model, rate in rates.items())


def poisson(
    models: Models, rates: Mapping[str, float], generator: RandomGenerator, *, until: float
) -> list[ModelRequest]:
    """Requests of all models up to `until`, in order of arrival."""
    arrivals: list[tuple[int, str]] = []
    for model in models:
        at = generator.exponential(1 / rates[model])
        while at <= until:
            arrivals.append((round(at), model))
            at += generator.exponential(1 / rates[model])
    return [
        ModelRequest(model=model, layers=models[model], arrival=at, order=order)
        for order, (at, model) in enumerate(sorted(arrivals))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Of finished requests: each one's latency, and that over the latency of its model alone on an idle accelerator."""

    latencies: Sequence[int]
    slowdowns: Sequence[float]

    @property
    def antt(self) -> float:
        """Average normalized turnaround time."""
        return sum(self.slowdowns) / len(self.slowdowns)

    def percentile(self, share: float) -> int:
        """The latency that `share` of the requests stay within (nearest rank)."""
        ranked = sorted(self.latencies)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def latencies(steps: Sequence[LayerStep], models: Models, accelerator: SimulatedAccelerator) -> Latencies:
    """From arrival to the end of the last layer."""
    idle = {}
    for model, layers in models.items():
        request = ModelRequest(model=model, layers=layers, arrival=0, order=0)
        idle[model] = run(accelerator.scheduler(Fifo()), [request])[-1].placement.compute_end
    ends = [(step.decision.request, step.placement.compute_end) for step in steps if step.decision.last]
    taken = [end - request.arrival for request, end in ends]
    slowdowns = [steps / idle[request.model] for (request, _), steps in zip(ends, taken, strict=True)]
    return Latencies(latencies=taken, slowdowns=slowdowns)
