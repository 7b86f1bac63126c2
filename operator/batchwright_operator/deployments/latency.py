"""Is the latency target of a model met, over all its replicas? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from batchwright_operator.status.percentiles import pool
from batchwright_worker.api.messages import LATENCY_BOUNDS_MS, ModelState

SHARE: Final = 0.95
"""Of the requests that are to be in time."""


def target_met(states: Sequence[ModelState], target_ms: float, *, before: bool | None) -> bool | None:
    """Were 95 of 100 requests of all replicas together answered within the target? None: nothing was measured.

    Where all replicas say the same of their own requests, it is true of all requests. Otherwise the pooled histogram
    tells, unless the answer lies within the bucket that the target is in: then `before` stands (None: it is missed).
    """
    answers = {state.latency_target_met for state in states} - {None}
    if len(answers) < 2:
        return next(iter(answers), None)
    counts = pool(state.latency_counts for state in states if state.latency_target_met is not None)
    total = sum(counts)
    within = sum(count for bound, count in zip(LATENCY_BOUNDS_MS, counts, strict=False) if bound <= target_ms)
    beyond = sum(count for bound, count in zip(LATENCY_BOUNDS_MS, counts[1:], strict=True) if bound >= target_ms)
    if total and within >= SHARE * total:
        return True
    if total and total - beyond < SHARE * total:
        return False
    return bool(before)
