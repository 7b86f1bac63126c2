"""What of lower priority may run before rows of higher priority that stay in time all the same. Pure.

Between models a strict priority is dear: the urgent model's rows come one by one, each takes the device for a batch of
its own, and the full batches of the others wait. So a batch of lower priority goes first where the urgent rows, and
those that will have come by then, are predicted to be in time behind it; it is cut short for their sake, down to half.
At twice the load that can be served, 5 % of it urgent, that answers 362 requests/s in time where the strict rule
answers 300, and the urgent ones as before (docs/measurements.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from batchwright_worker.scheduler.batch_size.device_time import Curve

DEVIATIONS: Final = 3.0
"""Of the number of urgent rows that come meanwhile, Poisson's: with two of them 99.1 to 99.9 % of the urgent rows were
in time in the simulations of tests/scheduler, with three 99.3 to 100 %."""
LEAST_SHARE: Final = 0.5
"""A batch that would have to be cut to less than this waits: smaller ones serve too few rows per second."""


class UrgentQueue(Struct, frozen=True, kw_only=True):
    """A queue of the highest priority: its next batch has `rows` of at most `cap`, of which the first is late at `due`;
    `rate` rows per second are offered; `turnaround` from a batch's start to its answers."""

    rows: int
    cap: int
    due: float
    rate: float
    turnaround: Curve


def rows_before(urgent: Sequence[UrgentQueue], lower: Curve, rows: int, now: float, begins: float) -> int:
    """How many of `rows` rows of lower priority, whose batch would begin then and take as `lower` says, may go before
    the urgent ones; 0 for none."""
    least = max(1, math.ceil(LEAST_SHARE * rows))
    in_order = sorted(urgent, key=lambda queue: queue.due)
    if any(queue.rows >= queue.cap for queue in in_order) or not _fit(in_order, lower.seconds(least), now, begins):
        return 0
    # The most that fit: what takes longer never fits where what takes less does not.
    fits, most = least, rows
    while fits < most:
        middle = (fits + most + 1) // 2
        if _fit(in_order, lower.seconds(middle), now, begins):
            fits = middle
        else:
            most = middle - 1
    return fits


def _fit(urgent: Sequence[UrgentQueue], lower_s: float, now: float, begins: float) -> bool:
    """Are the urgent queues in time, one behind the other, behind a batch of so many seconds?"""
    free_at = begins + lower_s
    for queue in urgent:
        coming = queue.rate * (free_at - now)
        rows = min(queue.cap, queue.rows + coming + DEVIATIONS * math.sqrt(coming))
        free_at += queue.turnaround.seconds(rows)
        if free_at > queue.due:
            return False
    return True
