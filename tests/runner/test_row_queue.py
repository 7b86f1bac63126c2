"""Rows leave in groups of equal shape, full groups first, and no group waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.runner.models.row_queue import RowQueue

puts = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=20)


class Rows(str):
    """Rows, each of which is a character."""

    __slots__ = ()

    def split(self, count: int) -> tuple[Rows, Rows]:  # type: ignore[override]
        return Rows(self[:count]), Rows(self[count:])


@given(puts, st.integers(1, 6))
def test_every_row_leaves_once_with_its_own_group_and_in_its_order(puts: list[tuple[str, int]], limit: int) -> None:
    queue: RowQueue[Rows] = RowQueue()
    put: dict[str, str] = {}
    for group, count in puts:
        rows = "".join(chr(ord(group) + 0x100 * (len(put.get(group, "")) + i)) for i in range(count))
        put[group] = put.get(group, "") + rows
        queue.put(group, Rows(rows))
    seen: dict[str, str] = {}
    left = sum(map(len, put.values()))
    while taken := "".join(queue.take(limit)):
        left -= len(taken)
        assert len(taken) <= limit
        assert len({chr(ord(row) % 0x100) for row in taken}) == 1
        assert len(queue) == left
        group = chr(ord(taken[0]) % 0x100)
        seen[group] = seen.get(group, "") + taken
    assert seen == put


def test_a_full_group_goes_before_an_older_part_of_one() -> None:
    queue: RowQueue[Rows] = RowQueue()
    queue.put("narrow", Rows("n"))
    queue.put("wide", Rows("12"))
    queue.put("wide", Rows("34"))
    assert queue.take(3) == ["12", "3"]
    assert queue.take(3) == ["n"]
    assert queue.take(3) == ["4"]


def test_a_group_is_passed_over_at_most_patience_times() -> None:
    queue: RowQueue[Rows] = RowQueue(patience=2)
    queue.put("narrow", Rows("n"))
    order = []
    for _ in range(4):
        queue.put("wide", Rows("ww"))
        order.append(queue.take(2)[0])
    assert order == ["ww", "ww", "n", "ww"]


def test_nothing_leaves_without_room() -> None:
    queue: RowQueue[Rows] = RowQueue()
    queue.put("a", Rows("r"))
    assert queue.take(0) == []
    assert len(queue) == 1
