"""Tables of pairs of networks on an NPU model: system throughput and latency per policy, beside the bound. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from types import MappingProxyType
from typing import Final

from batchwright_worker.layerwise.core.policy import Balanced, Fifo, Literal, Policy, RoundRobin
from batchwright_worker.layerwise.core.simulator import (
    Latencies,
    Models,
    RandomGenerator,
    SimulatedAccelerator,
    alone,
    closed_loop,
    latencies,
    poisson,
    run,
    stp,
)
from batchwright_worker.layerwise.core.skip_limit import auto_skip_limit, fill_time
from batchwright_worker.layerwise.core.values import Prefetch
from batchwright_worker.layerwise.tools.bound import stp_bound
from batchwright_worker.layerwise.tools.npu_model import Npu
from batchwright_worker.layerwise.tools.published_networks import COMPUTE_BOUND, MEMORY_BOUND, layers_of

__all__ = [
    "COLUMNS",
    "LATENCY_PAIRS",
    "MIXED_PAIRS",
    "SAME_ENGINE_PAIRS",
    "Column",
    "PairLatency",
    "PairThroughput",
    "geometric_mean",
    "pair_latency",
    "pair_throughput",
]

Pair = tuple[str, str]

MIXED_PAIRS: Final[Sequence[Pair]] = tuple(product(COMPUTE_BOUND, MEMORY_BOUND))
SAME_ENGINE_PAIRS: Final[Sequence[Pair]] = (*combinations(COMPUTE_BOUND, 2), *combinations(MEMORY_BOUND, 2))
LATENCY_PAIRS: Final[Sequence[Pair]] = (
    ("ResNeXt-50", "GNMT"),
    ("MobileNet-v2", "BERT-large"),
    ("Inception-v3", "XLNet-large"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One way to schedule: `policy(models, budget)` makes a fresh policy."""

    policy: Callable[[Models, float], Policy]
    prefetch: Prefetch = Prefetch.WHOLE


def balanced(models: Models, budget: float) -> Policy:
    """The default: skip limit and fill time from the models and the budget."""
    layers = models.values()
    return Balanced(auto_skip_limit(layers, budget), fill_time(layers, budget))


COLUMNS: Final[Mapping[str, Column]] = MappingProxyType(
    {
        "FIFO": Column(policy=lambda models, budget: Fifo()),
        "round robin": Column(policy=lambda models, budget: RoundRobin()),
        "literal N=16": Column(policy=lambda models, budget: Literal(16)),
        "balanced": Column(policy=balanced),
        "balanced, fluid": Column(policy=balanced, prefetch=Prefetch.FLUID),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairThroughput:
    """System throughput of every column, and the bound (all over the same rates alone, with whole-layer prefetch)."""

    pair: Pair
    bound: float
    columns: Mapping[str, float]


def pair_throughput(
    pair: Pair, npu: Npu, columns: Mapping[str, Column] = COLUMNS, *, rounds: int = 24, budget: float | None = None
) -> PairThroughput:
    """A closed loop of both networks, long enough for `rounds` runs of each one after the other.

    The layers are those for the processor's memory; `budget` may be another (infinite, for one).
    """
    models = {name: layers_of(name, npu) for name in pair}
    budget_bytes = npu.memory_bytes if budget is None else budget
    rates_alone = alone(models, SimulatedAccelerator(budget_bytes=budget_bytes))
    until = rounds * sum(1 / rate for rate in rates_alone.values())
    found = {}
    for name, column in columns.items():
        accelerator = SimulatedAccelerator(budget_bytes=budget_bytes, prefetch=column.prefetch)
        policy = column.policy(models, budget_bytes)
        found[name] = stp(closed_loop(models, policy, accelerator, until=until).rates, rates_alone)
    return PairThroughput(pair=pair, bound=stp_bound(models, rates_alone), columns=found)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLatency:
    """Latencies of the same requests under FIFO and under balanced."""

    pair: Pair
    fifo: Latencies
    balanced: Latencies

    @property
    def antt_ratio(self) -> float:
        """ANTT over FIFO's."""
        return self.balanced.antt / self.fifo.antt

    @property
    def p99_ratio(self) -> float:
        """99th percentile over FIFO's."""
        return self.balanced.percentile(0.99) / self.fifo.percentile(0.99)


def pair_latency(
    pair: Pair, npu: Npu, generator: RandomGenerator, *, load: float = 0.95, runs: int = 800
) -> PairLatency:
    """Poisson arrivals of both networks, about `runs` in all. Each brings half of the load: 1.0 is what an accelerator
    serves that runs one model at a time."""
    models = {name: layers_of(name, npu) for name in pair}
    accelerator = SimulatedAccelerator(budget_bytes=npu.memory_bytes)
    rates = {name: rate * load / len(pair) for name, rate in alone(models, accelerator).items()}
    requests = poisson(models, rates, generator, until=runs / sum(rates.values()))

    def measured(policy: Policy) -> Latencies:
        return latencies(run(accelerator.scheduler(policy), requests), models, accelerator)

    return PairLatency(pair=pair, fifo=measured(Fifo()), balanced=measured(balanced(models, npu.memory_bytes)))


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values."""
    return math.exp(sum(map(math.log, values)) / len(values))
