"""Rows leave in groups of equal shape, full groups first, and no group waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.runner.models.row_queue import RowQueue

puts = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=20)


@given(puts, st.integers(1, 6))
def test_every_row_leaves_once_with_its_own_group_and_in_its_order(puts: list[tuple[str, int]], limit: int) -> None:
    queue: RowQueue[tuple[str, int]] = RowQueue()
    number = 0
    for group, count in puts:
        queue.put(group, [(group, number + i) for i in range(count)])
        number += count
    seen: dict[str, list[int]] = {}
    left = number
    while taken := queue.take(limit):
        left -= len(taken)
        assert len(taken) <= limit
        assert len({group for group, _ in taken}) == 1
        assert len(queue) == left
        seen.setdefault(taken[0][0], []).extend(row for _, row in taken)
    assert left == 0
    assert all(rows == sorted(rows) for rows in seen.values())


def test_a_full_group_goes_before_an_older_part_of_one() -> None:
    queue: RowQueue[str] = RowQueue()
    queue.put("narrow", ["n1"])
    queue.put("wide", ["w1", "w2", "w3"])
    assert queue.take(3) == ["w1", "w2", "w3"]
    assert queue.take(3) == ["n1"]


def test_a_group_is_passed_over_at_most_patience_times() -> None:
    queue: RowQueue[str] = RowQueue(patience=2)
    queue.put("narrow", ["n1"])
    order = []
    for _ in range(4):
        queue.put("wide", ["w", "w"])
        order.append(queue.take(2)[0])
    assert order == ["w", "w", "n1", "w"]


def test_nothing_leaves_without_room() -> None:
    queue: RowQueue[str] = RowQueue()
    queue.put("a", ["r"])
    assert queue.take(0) == []
    assert len(queue) == 1
