"""The best that any order of layers could reach, by linear programming (scipy's HiGHS). Pure.

Runs per time x_i of every model, total compute C_i and fetch M_i of one run, t_i the time of one run alone:

    maximize sum x_i * t_i   subject to   sum x_i * C_i <= 1,   sum x_i * M_i <= 1,   x >= 0

Neither memory nor order bind here, so no schedule beats it; for one compute-bound and one memory-bound model with t = C
and t = M it is (2 - rho_a - rho_b) / (1 - rho_a * rho_b) (methods C).

It may leave models out for ever, and close to the largest layer nothing comes near it. `ScheduleLimits` adds what every
schedule keeps to, whole or fluid:

    memory     while a layer computes it holds its s bytes and nothing else retires, so that B - s bytes can be fetched
               at most: both engines work at once for o = min(c, (B - s) * max w/s), so sum x_i * (C_i + M_i - O_i) <= 1
    the guard  of N + m - 1 decisions (methods C, m models) each model has one at least: with n_i layers a run,
               x_i * n_i >= sum x_j * n_j / (N + m - 1)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from scipy.optimize import linprog

from batchwright_worker.layerwise.core.simulator import Models
from batchwright_worker.layerwise.core.values import Layer

__all__ = ["ScheduleLimits", "best_rates", "stp_bound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleLimits:
    """What bounds every schedule beside its engines; `skip_limit` 0: no guard."""

    budget_bytes: float = inf
    skip_limit: int = 0


_NONE: Final = ScheduleLimits()


def best_rates(models: Models, rates_alone: Mapping[str, float], limits: ScheduleLimits = _NONE) -> dict[str, float]:
    """Rates of the models at the optimum, in the order of `models`."""
    gain = [-1 / rates_alone[model] for model in models]
    compute = [sum(layer.compute for layer in layers) for layers in models.values()]
    memory = [sum(layer.fetch for layer in layers) for layers in models.values()]
    engines: list[list[float]] = [[*compute], [*memory], *_memory_rows(models, limits.budget_bytes)]
    # Scaled by the longest run: HiGHS' tolerances are absolute, and seconds would drown in them.
    unit = max(*compute, *memory)
    guard = _guard_rows(models, limits.skip_limit)
    rows = [*([value / unit for value in row] for row in engines), *guard]
    most = [1] * len(engines) + [0] * len(guard)
    found = linprog([value / unit for value in gain], A_ub=rows, b_ub=most, bounds=(0, None), method="highs")
    if not found.success:
        raise ArithmeticError(f"the bound of {', '.join(models)} was not found: {found.message}")
    return {model: float(rate) / unit for model, rate in zip(models, found.x, strict=True)}


def stp_bound(models: Models, rates_alone: Mapping[str, float], limits: ScheduleLimits = _NONE) -> float:
    """The largest system throughput."""
    return sum(rate / rates_alone[model] for model, rate in best_rates(models, rates_alone, limits).items())


def _memory_rows(models: Models, budget_bytes: float) -> list[list[float]]:
    """C + M - O of each model, if there is a bound of the memory and nothing is fetched that holds none."""
    layers = [layer for each in models.values() for layer in each]
    if budget_bytes == inf or any(layer.fetch and not layer.bytes for layer in layers):
        return []
    slowest = max((layer.fetch / layer.bytes for layer in layers if layer.bytes), default=0.0)

    def together(layer: Layer) -> float:
        return min(layer.compute, (budget_bytes - layer.bytes) * slowest)

    return [[sum(each.compute + each.fetch - together(each) for each in one) for one in models.values()]]


def _guard_rows(models: Models, skip_limit: int) -> list[list[float]]:
    if not skip_limit:
        return []
    counts: Sequence[int] = [len(layers) for layers in models.values()]
    turns = skip_limit + len(counts) - 1
    return [
        [count / turns - (count if other == number else 0) for other, count in enumerate(counts)]
        for number in range(len(counts))
    ]
