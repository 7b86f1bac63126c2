"""Processes that share a cache and prepare the same network, together or one after another that was killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batchwright_worker.file_locks import taken
from batchwright_worker.layerwise.networks.prepared_folder import prepared
from batchwright_worker.layerwise.networks.units import (
    WEIGHTS_FILE,
    Piece,
    UnitIndex,
    UnitWriter,
    read_index,
    write_index,
)

NETWORK = "0123456789abcdef" * 2


def filled(folder: Path, value: int = 1) -> UnitIndex:
    """One unit, all of whose bytes are `value`."""
    piece = Piece(name="w", dtype="uint8", shape=[4096], offset=0, size=0)
    with UnitWriter(folder) as writer:
        writer.add("unit", [(piece, np.full(4096, value, np.uint8))], 1)
        index = writer.index("m", "digest")
    return write_index(folder, index)


def contents(folder: Path) -> set[int]:
    return set((folder / WEIGHTS_FILE).read_bytes())


def test_who_is_slower_leaves_alone_what_the_faster_one_reads(tmp_path: Path) -> None:
    folder = tmp_path / NETWORK

    def slowly(place: Path) -> UnitIndex:
        # Another process begins later, is done first, and serves from its folder.
        assert prepared(folder, lambda other: filled(other, 2)).index == read_index(folder)
        with (folder / WEIGHTS_FILE).open("rb") as served:
            index = filled(place, 3)
            assert set(served.read()) == {2}
        return index

    assert prepared(folder, slowly).index == read_index(folder)
    assert contents(folder) == {2}
    assert list(tmp_path.iterdir()) == [folder]
    assert prepared(folder, lambda _: pytest.fail("it is there")).index == read_index(folder)


def test_what_a_killed_process_left_is_removed_and_what_another_fills_is_not(tmp_path: Path) -> None:
    folder = tmp_path / NETWORK
    dead, at_work = tmp_path / f"{NETWORK}.1-00000000", tmp_path / f"{NETWORK}.2-00000000"
    for place in (dead, at_work):
        place.mkdir()
        (place / "preparing").touch()
        (place / WEIGHTS_FILE).write_bytes(b"half")
    lock = taken(at_work / "preparing")
    assert lock is not None
    prepared(folder, filled)
    lock.release()
    assert sorted(tmp_path.iterdir()) == [folder, at_work]
    assert sorted(path.name for path in folder.iterdir()) == ["held", "units.json", WEIGHTS_FILE]


def test_a_folder_that_was_never_completed_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / NETWORK
    folder.mkdir()
    (folder / WEIGHTS_FILE).write_bytes(b"half")
    prepared(folder, filled)
    assert contents(folder) == {1}
    assert list(tmp_path.iterdir()) == [folder]


def test_what_cannot_be_prepared_leaves_nothing(tmp_path: Path) -> None:
    def fails(place: Path) -> UnitIndex:
        filled(place)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        prepared(tmp_path / NETWORK, fails)
    assert list(tmp_path.iterdir()) == []
