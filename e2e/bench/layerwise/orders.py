"""Orders of layers on networks of known kinds, simulated: how much of what is possible FIFO, balanced, rollout reach.

closed loops        share of the bound by linear programming (which knows no memory), for the review's mixes, whole
                    and fluid fetches; the figures that are asked for: 0.75, 0.95, 0.99 at 1.05, 2 and 4 times the
                    largest layer. "possible": the share that a bound leaves which knows the memory and the guard
the best there is   coarse networks of four layers, of which all orders can be looked at: how much of that bound the
                    best one reaches, and how much of the best rollout does
one batch each      makespan above the best order of two networks of six layers
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from batchwright_worker.layerwise.core.scheduler import LayerScheduler
from batchwright_worker.layerwise.core.simulator import SimulatedAccelerator, alone, closed_loop, run, stp
from batchwright_worker.layerwise.core.skip_limit import auto_skip_limit
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Layer, ModelRequest, Prefetch
from batchwright_worker.layerwise.tools.best_order import best_cycle, best_makespan
from batchwright_worker.layerwise.tools.bound import ScheduleLimits, stp_bound
from batchwright_worker.layerwise.tools.instance import policy_of
from batchwright_worker.layerwise.tools.kinds import of_kind

__all__ = ["ASKED", "MIXES", "PAIRS", "Shares", "above_the_best", "measured"]

ASKED: Final = {1.05: 0.75, 2.0: 0.95, 4.0: 0.99}
"""By the memory in largest layers: the share of the bound that the issue asks for."""
MIXES: Final = (
    ("compute", "memory"),
    ("convolutional", "memory"),
    ("even", "even"),
    ("compute", "compute", "memory", "memory"),
    ("compute", "convolutional", "memory", "giant"),
    ("long compute", "short memory"),
)
PAIRS: Final = (
    ("random", "random"),
    ("compute", "memory"),
    ("convolutional", "convolutional"),
    ("convolutional", "reversed"),
    ("convolutional", "memory"),
    ("compute", "giant"),
)
_COLUMNS: Final = {
    "FIFO": ("fifo", Prefetch.WHOLE),
    "balanced": ("balanced", Prefetch.WHOLE),
    "rollout": ("rollout", Prefetch.WHOLE),
    "balanced, fluid": ("balanced", Prefetch.FLUID),
    "rollout, fluid": ("rollout", Prefetch.FLUID),
}
_FACTORS: Final = (1.1, 2.0, 4.0)
_COARSE: Final = 10
_MOST_STATES: Final = 20_000
Models = Mapping[str, Sequence[Layer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Of one mix in memory for `factor` largest layers: means over instances, by column."""

    kinds: tuple[str, ...]
    factor: float
    shares: Mapping[str, float]


def measured(instances: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """All three, told as they are found."""
    tell(f"closed loops, share of the bound, means of {instances} instances:")
    loops = [_told(each, tell) for each in closed_loops(instances)]
    tell("networks of four coarse layers: the best order's share of the bound, rollout's of that:")
    best = [_told(each, tell) for each in best_shares(instances)]
    tell("one batch each of two networks of six layers, above the best order, 20 instances (mean, most):")
    above = [_told(each, tell) for each in makespans(20)]
    return {"closedLoops": loops, "bestOrder": best, "oneBatch": above}


def _told(found: Shares, tell: Callable[[str], None]) -> dict[str, Any]:
    columns = "  ".join(f"{column} {share:.3f}" for column, share in found.shares.items())
    tell(f"  {', '.join(found.kinds):44} {found.factor:4g} x  {columns}")
    return asdict(found)


def makespans(instances: int) -> Iterator[Shares]:
    """Per pair and memory, the share by which each policy is above the best order: mean, and most."""
    for kinds in PAIRS:
        for factor in _FACTORS:
            shares: dict[str, float] = {}
            for policy in ("balanced", "rollout"):
                random = np.random.default_rng(5)
                above = [above_the_best(policy, kinds, factor, random) for _ in range(instances)]
                shares |= {f"{policy} mean": float(np.mean(above)), f"{policy} most": max(above)}
            yield Shares(kinds=kinds, factor=factor, shares=shares)


def closed_loops(instances: int) -> Iterator[Shares]:
    """Per mix and budget, each column's share of the bound."""
    for kinds in MIXES:
        for factor in ASKED:
            found = [_shares(_models(kinds, seed), factor) for seed in range(instances)]
            means = {column: float(np.mean([each[column] for each in found])) for column in found[0]}
            yield Shares(kinds=kinds, factor=factor, shares=means)


def best_shares(instances: int) -> Iterator[Shares]:
    """Per mix of two and budget, the share of the bound that the best order reaches, and of that one rollout's."""
    for kinds in MIXES:
        for factor in ASKED if len(kinds) == 2 else ():
            found = [each for seed in range(instances) if (each := _best(kinds, factor, seed)) is not None]
            if found:
                best, reached = (float(np.mean(column)) for column in zip(*found, strict=True))
                yield Shares(kinds=kinds, factor=factor, shares={"best order": best, "rollout of it": reached})


def above_the_best(policy: str, kinds: tuple[str, ...], factor: float, random: np.random.Generator) -> float:
    """By how much (a share) the policy's order takes longer; the memory is `factor` of the largest layer."""
    models = {name: of_kind(kind, random) for name, kind in zip("ab", kinds, strict=True)}
    budget = _budget(models, factor)
    scheduler = LayerScheduler(Timeline(budget), policy_of(policy, list(models.values()), budget, skip_limit=0))
    requests = [
        ModelRequest(model=name, layers=layers, arrival=0, order=order)
        for order, (name, layers) in enumerate(models.items())
    ]
    makespan = run(scheduler, requests)[-1].placement.compute_end
    return makespan / best_makespan(list(models.values()), budget) - 1


def _models(kinds: tuple[str, ...], seed: int) -> Models:
    random = np.random.default_rng(seed)
    return {f"{kind} {number}": of_kind(kind, random) for number, kind in enumerate(kinds)}


def _budget(models: Models, factor: float) -> int:
    return int(factor * max(layer.bytes for layers in models.values() for layer in layers))


def _shares(models: Models, factor: float) -> dict[str, float]:
    budget = _budget(models, factor)
    rates_alone = alone(models, SimulatedAccelerator(budget_bytes=budget), runs=20)
    bound = stp_bound(models, rates_alone)
    limits = ScheduleLimits(budget_bytes=budget, skip_limit=auto_skip_limit(list(models.values()), budget))
    return {
        column: _throughput(models, rates_alone, policy, SimulatedAccelerator(budget_bytes=budget, prefetch=prefetch))
        / bound
        for column, (policy, prefetch) in _COLUMNS.items()
    } | {"possible": stp_bound(models, rates_alone, limits) / bound}


def _throughput(
    models: Models, rates_alone: Mapping[str, float], policy: str, accelerator: SimulatedAccelerator
) -> float:
    layers = list(models.values())
    until = 20 * sum(layer.compute + layer.fetch for each in layers for layer in each)
    chosen = policy_of(policy, layers, accelerator.budget_bytes, skip_limit=None)
    return stp(closed_loop(models, chosen, accelerator, until=until).rates, rates_alone)


def _best(kinds: tuple[str, ...], factor: float, seed: int) -> tuple[float, float] | None:
    random = np.random.default_rng(seed)
    models = {f"{kind} {number}": _coarse(of_kind(kind, random, 4)) for number, kind in enumerate(kinds)}
    accelerator = SimulatedAccelerator(budget_bytes=_budget(models, factor))
    rates_alone = alone(models, accelerator, runs=20)
    best = best_cycle(models, rates_alone, accelerator.budget_bytes, most_states=_MOST_STATES)
    if best is None:
        return None
    return best / stp_bound(models, rates_alone), _throughput(models, rates_alone, "rollout", accelerator) / best


def _coarse(layers: Sequence[Layer]) -> list[Layer]:
    """With few different times, so that there are few states."""

    def coarse(time: int) -> int:
        return max(1, round(time / _COARSE))

    return [Layer(compute=coarse(each.compute), fetch=coarse(each.fetch), bytes=coarse(each.bytes)) for each in layers]
