"""What each part of the rule is worth: the 16 pairs with one thing changed at a time (acceptance 10). Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from batchwright_worker.layerwise.core.policy import Balanced, Literal, Policy
from batchwright_worker.layerwise.core.simulator import Models
from batchwright_worker.layerwise.core.skip_limit import auto_skip_limit, fill_time
from batchwright_worker.layerwise.core.values import Prefetch
from batchwright_worker.layerwise.tools.npu_model import Npu
from batchwright_worker.layerwise.tools.pairs import COLUMNS, MIXED_PAIRS, Column, Pair, geometric_mean, pair_throughput

__all__ = ["STUDIES", "Study", "study_rows"]

MEBIBYTE: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One table: columns, once for each budget (None: boundless; layers as for the processor's own memory then)."""

    title: str
    columns: Mapping[str, Column]
    budgets_mib: Sequence[int | None] = (16,)


def _literal(skip_limit: int, *, by_memory_idle: bool = True) -> Column:
    return Column(policy=lambda models, budget: Literal(skip_limit, by_memory_idle=by_memory_idle))


def _balanced(skip_limit: int | None = None, theta: float = 0.5) -> Column:
    def policy(models: Models, budget: float) -> Policy:
        layers = models.values()
        limit = auto_skip_limit(layers, budget) if skip_limit is None else skip_limit
        return Balanced(limit, fill_time(layers, budget), theta)

    return Column(policy=policy)


def _auto_literal(models: Models, budget: float) -> Policy:
    return Literal(auto_skip_limit(models.values(), budget))


def _by_limit(column: Callable[[int], Column], auto: Column) -> dict[str, Column]:
    named = {"none" if limit == 0 else f"N={limit}": column(limit) for limit in (0, 1, 4, 16, 64)}
    return {**named, "auto": auto}


STUDIES: Final[Sequence[Study]] = (
    Study(
        title="guard and N, literal",
        columns=_by_limit(_literal, Column(policy=_auto_literal)),
        budgets_mib=(4, 16),
    ),
    Study(title="guard and N, balanced", columns=_by_limit(_balanced, _balanced()), budgets_mib=(4, 16)),
    Study(
        title="tie-break of literal N=16",
        columns={"IM": _literal(16), "arrival alone": _literal(16, by_memory_idle=False)},
        budgets_mib=(4, 16),
    ),
    Study(
        title="theta of balanced",
        columns={f"{theta:g}": _balanced(theta=theta) for theta in (0, 0.25, 0.5, 0.75, 1)},
        budgets_mib=(4, 16),
    ),
    Study(
        title="prefetch",
        columns={
            f"{name}, {prefetch}": replace(COLUMNS[name], prefetch=prefetch)
            for name in ("FIFO", "literal N=16", "balanced")
            for prefetch in Prefetch
        },
        budgets_mib=(4, 16),
    ),
    Study(
        title="budget",
        columns={name: COLUMNS[name] for name in ("FIFO", "round robin", "literal N=16", "balanced")},
        budgets_mib=(4, 8, 16, 32, 64, None),
    ),
)


def study_rows(
    study: Study, *, pairs: Sequence[Pair] = MIXED_PAIRS, rounds: int = 12
) -> Iterator[tuple[str, Mapping[str, float], float]]:
    """(budget, geometric mean of the throughput per column, of the bound) for every budget of the study."""
    for mib in study.budgets_mib:
        npu = Npu() if mib is None else Npu(memory_bytes=mib * MEBIBYTE)
        budget = math.inf if mib is None else None
        rows = [pair_throughput(pair, npu, study.columns, rounds=rounds, budget=budget) for pair in pairs]
        means = {name: geometric_mean([row.columns[name] for row in rows]) for name in study.columns}
        yield "boundless" if mib is None else f"{mib} MiB", means, geometric_mean([row.bound for row in rows])
