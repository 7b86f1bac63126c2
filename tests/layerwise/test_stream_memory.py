"""The bounded memory of weights in flight: its books, its mapping, its reads."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.layerwise.memory.pool import Pool, Reads, ShortReadError, UnitReader, read_all
from batchwright_worker.layerwise.memory.ring import Ring
from batchwright_worker.layerwise.networks.units import PAGE, Piece, UnitWriter


@given(
    capacity=st.integers(1, 64),
    mirrored=st.booleans(),
    steps=st.lists(st.integers(0, 64) | st.none(), max_size=60),
)
def test_units_never_overlap_and_never_exceed_the_ring(capacity: int, mirrored: bool, steps: list[int | None]) -> None:
    ring, placed = Ring(capacity, mirrored=mirrored), deque[set[int]]()
    for size in steps:
        if size is None:
            if placed:
                placed.popleft()
                ring.retire()
        elif ring.fits(size):
            offset = ring.place(size)
            places = {place % capacity for place in range(offset, offset + size)}
            assert len(places) == size
            assert mirrored or offset + size <= capacity
            assert not any(places & other for other in placed)
            placed.append(places)
        assert sum(map(len, placed)) <= ring.used <= capacity
        assert ring.peak <= capacity


@given(size=st.integers(0, 64), mirrored=st.booleans(), before=st.lists(st.integers(1, 64), max_size=5))
def test_an_empty_ring_takes_whatever_is_no_larger_than_itself(size: int, mirrored: bool, before: list[int]) -> None:
    ring = Ring(64, mirrored=mirrored)
    for other in before:
        ring.place(other)
        ring.retire()
    assert ring.fits(size)


def test_what_is_written_over_the_end_of_the_pool_is_at_its_start() -> None:
    pool = Pool(2 * PAGE)
    try:
        pool.view(PAGE, 2 * PAGE)[:] = np.repeat(np.arange(2, dtype=np.uint8), PAGE)
        assert pool.view(0, PAGE).max() == pool.view(0, PAGE).min() == 1
        assert pool.view(PAGE, PAGE).max() == 0
    finally:
        pool.close()


def test_a_pool_is_whole_pages() -> None:
    with pytest.raises(ValueError, match="multiple of 4096"):
        Pool(PAGE + 1)


@pytest.mark.parametrize("reads", ["cached", "cold", "direct"])
def test_units_are_read_as_they_were_written(reads: Reads, tmp_path: Path) -> None:
    contents = [np.arange(size, dtype=np.uint8) for size in (10, 5000)]
    with UnitWriter(tmp_path) as writer:
        units = [
            writer.add(str(size.size), [(Piece(name="w", dtype="uint8", shape=[], offset=0, size=0), size)] * 2, 1)
            for size in contents
        ]
    reader = UnitReader(tmp_path, reads)
    for unit, held, data in zip(units, read_all(reader, units), contents, strict=True):
        for piece in unit.pieces:
            np.testing.assert_array_equal(held[piece.offset : piece.offset + piece.size], data)
    reader.close()


def test_a_file_that_was_cut_short_is_seen(tmp_path: Path) -> None:
    with UnitWriter(tmp_path) as writer:
        piece = Piece(name="w", dtype="uint8", shape=[], offset=0, size=0)
        unit = writer.add("a", [(piece, np.zeros(3 * PAGE, np.uint8))], 1)
    (tmp_path / "weights.bin").write_bytes(bytes(PAGE))
    reader = UnitReader(tmp_path)
    with pytest.raises(ShortReadError, match="ends before"):
        read_all(reader, [unit])
    reader.close()
