"""Back-pressure: memory of items that are read and not yet written stays within the budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.runner.graph.window import MOST_ITEMS, Window

MIB = 1 << 20


def test_few_items_start_until_their_need_is_known() -> None:
    window = Window(budget_bytes=100 * MIB, first_items=6)
    assert window.room == 6
    window.items = 6
    assert window.room == 0


def test_large_items_are_held_one_by_one() -> None:
    window = Window(budget_bytes=100 * MIB, first_items=6)
    window.finished(300 * MIB)
    assert window.room == 1
    window.items = 1
    window.bytes = 300 * MIB
    assert window.room == 0


def test_small_items_are_held_up_to_the_limit() -> None:
    window = Window(budget_bytes=100 * MIB, first_items=6)
    window.finished(200)
    assert window.room == MOST_ITEMS


@given(st.lists(st.integers(1, 64 * MIB), min_size=1, max_size=60))
def test_items_times_their_need_never_exceed_the_budget(peaks: list[int]) -> None:
    window = Window(budget_bytes=128 * MIB, first_items=2)
    for peak in peaks:
        window.finished(peak)
        assert window.need_bytes >= peak
        assert window.limit == 1 or window.limit * window.need_bytes <= window.budget_bytes


def test_a_large_item_is_forgotten_in_time() -> None:
    window = Window(budget_bytes=100 * MIB, first_items=2)
    window.finished(50 * MIB)
    for _ in range(400):
        window.finished(MIB)
    assert window.limit > 90


def test_a_shard_begins_with_the_need_that_the_one_before_had() -> None:
    assert Window(budget_bytes=100 * MIB, first_items=2, need_bytes=50.0 * MIB).room == 2
    assert Window(budget_bytes=100 * MIB, first_items=2, need_bytes=1024.0).room == MOST_ITEMS
