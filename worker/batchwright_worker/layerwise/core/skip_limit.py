"""The skip limit: how often a layer may be passed over, from the memory (auto-N; methods C, "Known traps"). Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fractions import Fraction
from math import inf, isinf

from batchwright_worker.layerwise.core.values import Layer

__all__ = ["auto_skip_limit", "fill_time"]


def fill_time(models: Collection[Sequence[Layer]], budget_bytes: float) -> Fraction | float:
    """B/BW: what filling the memory takes at the models' mean bandwidth (all bytes over all fetch times). Exact.

    A boundless memory counts as one that holds all models once: with no limit at all, compute could be queued up
    forever while a memory-bound model waits. Infinite if nothing is fetched.
    """
    size = sum(layer.bytes for layers in models for layer in layers)
    fetch = sum(layer.fetch for layers in models for layer in layers)
    if not fetch:
        return inf
    return Fraction(fetch) if isinf(budget_bytes) or not size else Fraction(budget_bytes) * fetch / size


def auto_skip_limit(models: Collection[Sequence[Layer]], budget_bytes: float) -> int:
    """N = (time to fill B at memory bandwidth) / (mean compute time per layer of the most compute-heavy model), >= 1.

    More skips than that, and the memory fills up with finished fetches while the skipped model waits; far fewer, and
    the rule never gets to choose. 0 (no guard) if nothing is fetched or computed: then order costs nothing.
    """
    heaviest = max(models, key=_compute_share, default=())
    compute = sum(layer.compute for layer in heaviest)
    filled = fill_time(models, budget_bytes)
    if isinf(filled) or not compute:
        return 0
    return max(1, round(filled * len(heaviest) / compute))


def _compute_share(layers: Sequence[Layer]) -> float:
    """Compute over all its times: 1 for a model that never fetches."""
    compute = sum(layer.compute for layer in layers)
    both = compute + sum(layer.fetch for layer in layers)
    return compute / both if both else 0
