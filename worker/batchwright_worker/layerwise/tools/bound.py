"""The best that any order of layers could reach, by linear programming (scipy's HiGHS). Pure.

Runs per time x_i of every model, total compute C_i and fetch M_i of one run, t_i the time of one run alone:

    maximize sum x_i * t_i   subject to   sum x_i * C_i <= 1,   sum x_i * M_i <= 1,   x >= 0

Neither memory nor order bind here, so no schedule beats it; for one compute-bound and one memory-bound model with t = C
and t = M it is (2 - rho_a - rho_b) / (1 - rho_a * rho_b) (methods C).
"""

from __future__ import annotations

from collections.abc import Mapping

from scipy.optimize import linprog

from batchwright_worker.layerwise.core.simulator import Models

__all__ = ["best_rates", "stp_bound"]


def best_rates(models: Models, rates_alone: Mapping[str, float]) -> dict[str, float]:
    """Rates of the models at the optimum, in the order of `models`."""
    gain = [-1 / rates_alone[model] for model in models]
    compute = [sum(layer.compute for layer in layers) for layers in models.values()]
    memory = [sum(layer.fetch for layer in layers) for layers in models.values()]
    # Scaled by the longest run: HiGHS' tolerances are absolute, and seconds would drown in them.
    unit = max(*compute, *memory)
    rows = [[value / unit for value in compute], [value / unit for value in memory]]
    found = linprog([value / unit for value in gain], A_ub=rows, b_ub=[1, 1], bounds=(0, None), method="highs")
    if not found.success:
        raise ArithmeticError(f"the bound of {', '.join(models)} was not found: {found.message}")
    return {model: float(rate) / unit for model, rate in zip(models, found.x, strict=True)}


def stp_bound(models: Models, rates_alone: Mapping[str, float]) -> float:
    """The largest system throughput."""
    return sum(rate / rates_alone[model] for model, rate in best_rates(models, rates_alone).items())
