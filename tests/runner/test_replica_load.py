"""How many rows a runner has at a replica, and which replica it prefers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.runner.models.replica_load import (
    FIRST_WINDOW_ROWS,
    REQUESTS,
    TURNAROUND_MS,
    WINDOW_BATCHES,
    ReplicaLoad,
    backoff_s,
)
from batchwright_worker.runner.models.wire import preferred_size


def answer(load: ReplicaLoad, rows: int, batch: int, now: float = 1.0, elapsed_ms: float = 1e3) -> None:
    """Send rows and have them back."""
    load.sent(rows)
    load.answered(rows, now=now, elapsed_ms=elapsed_ms, wait_ms=0.0, batch_size=batch)


def test_the_window_grows_with_the_batches_that_ran() -> None:
    load = ReplicaLoad()
    for _ in range(10):
        answer(load, 8, batch=16)
    assert load.room == WINDOW_BATCHES * 16


def test_of_short_batches_there_are_enough_for_the_runners_turnaround() -> None:
    load = ReplicaLoad()
    for _ in range(200):
        answer(load, load.room, batch=32, elapsed_ms=0.1 * load.room)
    assert load.room == TURNAROUND_MS / 0.1
    assert load.request_rows == load.room // REQUESTS


def test_it_begins_with_the_batches_that_the_replica_tells() -> None:
    load = ReplicaLoad()
    load.begins_with(16)
    assert (load.room, load.request_rows) == (WINDOW_BATCHES * 16, 16)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (b'{"dynamic_batching": {"preferred_batch_size": [24]}}', 24),
        (b'{"dynamic_batching": {"preferred_batch_size": []}}', None),
        (b'{"max_batch_size": 8}', None),
        (b"no JSON", None),
    ],
)
def test_the_size_is_that_of_the_models_configuration(config: bytes, size: int | None) -> None:
    assert preferred_size(config) == size


def test_small_batches_shrink_it_slowly() -> None:
    load = ReplicaLoad()
    for _ in range(10):
        answer(load, 8, batch=16)
    answer(load, 1, batch=1)
    assert load.batch_size > 14
    for _ in range(100):
        answer(load, 1, batch=1)
    assert load.room == FIRST_WINDOW_ROWS


def test_a_refusal_halves_what_was_there_and_answers_grow_it_again() -> None:
    load = ReplicaLoad()
    load.sent(8)
    load.refused(4, now=1.0, wait_ms=None)
    assert (load.in_flight, load.window) == (4, 4.0)
    load.answered(4, now=1.0, elapsed_ms=1.0, wait_ms=None, batch_size=2)
    assert load.window == 8.0


@given(st.lists(st.sampled_from(("sent", "answered", "refused", "lost")), max_size=40))
def test_rows_in_flight_never_exceed_the_window_and_never_fall_below_none(events: list[str]) -> None:
    load, flying = ReplicaLoad(), []
    for event in events:
        if event == "sent" and load.room:
            rows = min(load.room, load.request_rows)
            flying.append(rows)
            load.sent(rows)
            assert load.in_flight <= load.window
        elif event != "sent" and flying:
            rows = flying.pop()
            if event == "answered":
                load.answered(rows, now=1.0, elapsed_ms=5.0, wait_ms=1.0, batch_size=rows)
            elif event == "refused":
                load.refused(rows, now=1.0, wait_ms=1.0)
            else:
                load.lost(rows)
        assert load.in_flight == sum(flying)


def test_a_told_wait_is_worked_off_and_rows_sent_since_are_added() -> None:
    load = ReplicaLoad()
    load.sent(4)
    load.answered(2, now=10.0, elapsed_ms=40.0, wait_ms=100.0, batch_size=2)
    assert load.expected_wait_ms(10.0) == 100.0
    assert load.expected_wait_ms(10.06) == 40.0 + 0.0 or abs(load.expected_wait_ms(10.06) - 40.0) < 1e-6
    load.sent(3)
    assert abs(load.expected_wait_ms(10.2) - 3 * load.row_ms) < 1e-6


@given(st.integers(1, 100), st.floats(0, 0.999))
def test_backoff_grows_to_its_limit_with_jitter(attempt: int, share: float) -> None:
    wait = backoff_s(attempt, share=share)
    assert 0.025 <= wait <= 5.0
    assert wait <= 0.05 * 2.0 ** min(attempt, 20)
