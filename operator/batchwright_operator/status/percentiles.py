"""Histograms of many replicas as one: percentiles of a pooled distribution, never a mean of percentiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from operator import add

from batchwright_worker.api.messages import LATENCY_BOUNDS_MS

BUCKETS = len(LATENCY_BOUNDS_MS) + 1


def pool(histograms: Iterable[Sequence[int]]) -> list[int]:
    """Counts per bucket over all histograms; one that is shorter counts as zero beyond its end."""
    total = [0] * BUCKETS
    for histogram in histograms:
        sound = histogram if not histogram or min(histogram) >= 0 else [max(0, count) for count in histogram]
        known = list(map(add, total, sound))
        total[: len(known)] = known
    return total


def percentile_ms(counts: Sequence[int], share: float) -> int | None:
    """The latency below which `share` of the requests lie, in whole milliseconds rounded up; None without any.

    Linear inside the bucket that holds the request of rank ceil(share * n); the overflow bucket answers its
    lower bound. So the error is at most the width of that bucket (20 % of it) and the rounding.
    """
    total = sum(counts)
    if total == 0:
        return None
    rank = max(1, ceil(share * total))
    below = 0
    for index, count in enumerate(counts):
        if below + count >= rank:
            return max(1, ceil(_within(index, (rank - below) / count) - 1e-9))
        below += count
    raise AssertionError("the ranks of a histogram end with its total")


def _within(index: int, share: float) -> float:
    if index >= len(LATENCY_BOUNDS_MS):
        return LATENCY_BOUNDS_MS[-1]
    lower = LATENCY_BOUNDS_MS[index - 1] if index else 0.0
    return lower + (LATENCY_BOUNDS_MS[index] - lower) * share
