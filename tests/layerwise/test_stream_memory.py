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


@given(
    capacity=st.integers(1, 64),
    mirrored=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from(["open", "hold", "lend", "retire"]), st.integers(0, 64)), max_size=80),
)
def test_room_is_given_on_behind_what_frees_it_and_a_unit_that_was_opened_gets_all_of_its_room(
    capacity: int, mirrored: bool, steps: list[tuple[str, int]]
) -> None:
    """Every place is written only when all that lay there has been lent, and behind the last of those."""
    ring = Ring(capacity, mirrored=mirrored)
    owner: dict[int, int] = {}  # place -> the unit that lies there
    units: list[tuple[int, int, int]] = []  # offset, size, held
    lent = retired = 0

    def take(size: int, behind: object) -> None:
        offset, whole, held = units[-1]
        for place in range(offset + held, offset + held + size):
            before = owner.get(place % capacity, -1)
            if before >= retired:
                assert before < lent
                assert isinstance(behind, int)
                assert before <= behind
            owner[place % capacity] = len(units) - 1
        units[-1] = offset, whole, held + size

    for what, size in steps:
        whole = not units or units[-1][1] == units[-1][2]
        if what == "open" and whole and ring.opens(size, min(size, 3)):
            offset, behind = ring.open(size)
            assert mirrored or offset + size <= capacity
            units.append((offset, size, 0))
            held = ring.hold(min(size, 3))
            take(min(size, 3), behind if held is None else held)
        elif what == "hold" and not whole and ring.free:
            more = min(units[-1][1] - units[-1][2], ring.free)
            take(more, ring.hold(more))
        elif what == "lend" and lent < len(units) and units[lent][1] == units[lent][2]:
            ring.lend(lent)
            lent += 1
        elif what == "retire" and retired < lent:
            ring.retire()
            retired += 1
        assert 0 <= ring.used <= ring.peak <= capacity
    # Whatever was opened can be held to its end once all before it are lent.
    while units and units[-1][1] != units[-1][2]:
        while lent < len(units) - 1:
            ring.lend(lent)
            lent += 1
        more = min(units[-1][1] - units[-1][2], ring.free)
        assert more > 0
        take(more, ring.hold(more))
