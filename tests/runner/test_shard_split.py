"""The same input gives the same shards: every item once, in order, shards of the asked size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.runner.steps.shards import split

counts = st.lists(st.integers(0, 40), max_size=12)


@given(counts, st.integers(1, 17))
def test_every_item_is_in_one_shard_in_order(counts: list[int], size: int) -> None:
    shards = split(counts, size)
    items = [(s.source, s.start + i) for shard in shards for s in shard for i in range(s.count)]
    assert items == [(source, index) for source, count in enumerate(counts) for index in range(count)]


@given(counts, st.integers(1, 17))
def test_all_shards_but_the_last_are_full_and_no_segment_is_empty(counts: list[int], size: int) -> None:
    sizes = [sum(segment.count for segment in shard) for shard in split(counts, size)]
    assert all(one == size for one in sizes[:-1])
    assert all(0 < one <= size for one in sizes[-1:])
    assert all(segment.count for shard in split(counts, size) for segment in shard)


def test_a_shard_needs_items() -> None:
    with pytest.raises(ValueError, match="shardSize is 0"):
        split([1], 0)
