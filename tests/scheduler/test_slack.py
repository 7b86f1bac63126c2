"""What of lower priority may go before urgent rows, and what that is worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.scheduler.batch_size.device_time import Curve
from batchwright_worker.scheduler.slack import UrgentQueue, rows_before

LINE = Curve(fixed_s=0.010, per_row_s=0.002, points=((1, 0.012), (32, 0.074)), linear=True, batches=9)


def urgent(*, due: float, rows: int = 1, rate: float = 40.0, cap: int = 32) -> UrgentQueue:
    return UrgentQueue(rows=rows, cap=cap, due=due, rate=rate, turnaround=LINE)


@pytest.mark.parametrize(
    ("due", "rows", "rate", "allowed"),
    [
        (10.0, 1, 40.0, 32),  # all the time in the world
        (0.10, 1, 40.0, 31),  # 0.072 s, then 1 + 2.9 + 3 * 1.7 rows: 0.028 s
        (0.10, 1, 400.0, 0),  # so many come meanwhile that not even half a batch fits before them
        (0.06, 1, 40.0, 0),
        (0.00, 1, 40.0, 0),  # late already
        (10.0, 32, 40.0, 0),  # a full batch waits
    ],
)
def test_a_batch_goes_first_as_far_as_the_urgent_rows_stay_in_time(
    due: float, rows: int, rate: float, allowed: int
) -> None:
    assert rows_before([urgent(due=due, rows=rows, rate=rate)], LINE, 32, now=0.0, begins=0.0) == allowed


@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 40), st.floats(0, 500)), min_size=1, max_size=3),
    st.integers(1, 64),
    st.floats(0, 0.1),
)
def test_it_is_nothing_or_at_least_half_and_one_row_more_would_not_fit(
    queues: list[tuple[float, int, float]], rows: int, begins: float
) -> None:
    waiting = [urgent(due=due, rows=count, rate=rate) for due, count, rate in queues]
    allowed = rows_before(waiting, LINE, rows, now=0.0, begins=begins)
    assert allowed == 0 or rows / 2 <= allowed <= rows
    if allowed:
        first = min(waiting, key=lambda queue: queue.due)
        assert begins + LINE.seconds(allowed) + LINE.seconds(first.rows) <= first.due
        sooner = [urgent(due=queue.due - 0.001, rows=queue.rows, rate=queue.rate) for queue in waiting]
        assert rows_before(sooner, LINE, rows, now=0.0, begins=begins) <= allowed
