"""The drift sentinel: cheap measurements of a processor in idle times, and whether they fall. Pure.

A check runs one service at the best batch size of the load table for some seconds. A processor that gets slower
(throttling, a neighbour, a lower quota, a driver) shows a falling trend in its own history; then it is measured anew,
and the new table says how much it has lost. Nothing is decided by a check itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

import msgspec

from batchwright_operator.kube.times import unix
from batchwright_worker.mann_kendall import SIGNIFICANT, mann_kendall

KEPT: Final = 12
"""Checks that are kept and tested."""
LEAST: Final = 4
"""Fewer say nothing of a trend: of four the strictest one is significant."""
FOLLOW_UP: Final = 0.1
"""Of the usual time between checks: until the next one after one that came out low."""
LOST: Final = 0.9
"""A trend that ends above this share of where it began is not worth a benchmark of minutes."""


class SpotCheck(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """One check: when it ended (RFC 3339), and its images/s."""

    time: str
    images_per_second: float


def with_check(checks: Sequence[SpotCheck], check: SpotCheck) -> tuple[SpotCheck, ...]:
    """The history with one more; as it is where that one is in it."""
    if any(each.time == check.time for each in checks):
        return tuple(checks)
    return (*checks, check)[-KEPT:]


def has_fallen(checks: Sequence[SpotCheck], measured: float | None) -> bool:
    """Whether a processor has got slower: by the Mann-Kendall test its checks fall, and the last ones are worth it.
    `measured`: the rate of the load table, with which the history begins."""
    rates = [each.images_per_second for each in checks]
    series = rates if measured is None else [measured, *rates]
    if len(series) < LEAST or mann_kendall(series).z > -SIGNIFICANT:
        return False
    return median(series[-2:]) < LOST * median(series[: max(1, len(series) // 2)])


def due_in_s(checks: Sequence[SpotCheck], measured: float, benchmarked: str, every_s: float, now: float) -> float:
    """Seconds until the next check: so long after the last one, or after the benchmark; 0 or less: now. A check that
    came out low is followed up soon."""
    last = unix(checks[-1].time if checks else benchmarked)
    is_low = bool(checks) and checks[-1].images_per_second < LOST * measured
    return (every_s * FOLLOW_UP if is_low else every_s) - (now - last) if last is not None else 0.0
