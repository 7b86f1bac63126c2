"""The folder of prepared networks is bounded: the least recently used goes, never one that somebody runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from batchwright_worker.backends.base import LoadError
from batchwright_worker.layerwise.networks import prepared_cache
from batchwright_worker.layerwise.networks.prepared_cache import (
    ENV_BYTES,
    HELD_FILE,
    PROBE_PREFIX,
    make_room,
    remove_left_behind,
)
from batchwright_worker.layerwise.networks.prepared_folder import HeldFolder, prepared
from batchwright_worker.layerwise.networks.units import Piece, UnitIndex, UnitWriter, read_index, write_index

KIB = 1024
SIZE = 64 * KIB


def filled(folder: Path) -> UnitIndex:
    """One unit of 64 KiB."""
    piece = Piece(name="w", dtype="uint8", shape=[SIZE], offset=0, size=0)
    with UnitWriter(folder) as writer:
        writer.add("unit", [(piece, np.ones(SIZE, np.uint8))], 1)
        index = writer.index("m", "digest")
    (folder / "models.bin").write_bytes(b"models")
    return write_index(folder, index)


def entry(cache: Path, letter: str, used_s_ago: float | None = None) -> tuple[Path, HeldFolder]:
    folder = cache / (letter * 32)
    found = prepared(folder, filled)
    if used_s_ago is not None:
        found.release()
        at = time.time() - used_s_ago
        os.utime(folder / HELD_FILE, (at, at))
    return folder, found


def bound(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setenv(ENV_BYTES, str(size))


def test_the_least_recently_used_goes_first_and_only_as_many_as_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for letter, age in (("a", 300), ("b", 900), ("c", 600)):
        entry(tmp_path, letter, age)
    bound(monkeypatch, 3 * SIZE + 16 * KIB)
    entry(tmp_path, "d")
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_who_uses_one_again_makes_it_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for letter, age in (("a", 900), ("b", 600)):
        entry(tmp_path, letter, age)
    entry(tmp_path, "a")[1].release()
    bound(monkeypatch, 2 * SIZE + 16 * KIB)
    entry(tmp_path, "c")
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["a", "c"]


def test_one_that_is_held_stays_whatever_the_bound_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, held = entry(tmp_path, "a")
    other = prepared(folder, lambda _: pytest.fail("it is there"))
    at = time.time() - 900
    os.utime(folder / HELD_FILE, (at, at))
    bound(monkeypatch, KIB)
    make_room(tmp_path)
    assert read_index(folder) == held.index
    held.release()
    make_room(tmp_path)
    assert read_index(folder) is not None, "somebody else holds it"
    other.release()
    make_room(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_that_was_used_a_moment_ago_stays_for_a_process_that_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = entry(tmp_path, "a", 5)
    bound(monkeypatch, KIB)
    make_room(tmp_path)
    assert folder.is_dir()


def test_room_is_made_of_what_the_file_system_lacks_when_something_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = entry(tmp_path, "a", 900)
    monkeypatch.setattr(prepared_cache, "_KEPT_FREE", 1.0)
    make_room(tmp_path)
    assert folder.is_dir(), "nothing comes"
    make_room(tmp_path, 1)
    assert not folder.exists()


def test_a_bound_that_is_no_number_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_BYTES, "50Gi")
    with pytest.raises(LoadError, match=f"{ENV_BYTES} is a number of bytes, not '50Gi'"):
        entry(tmp_path, "a")
    assert list(tmp_path.iterdir()) == []


def test_nothing_else_in_the_folder_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("samples", "my.own-folder", "fetch-AMD-EPYC-x2-serving.json.d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x" * SIZE)
        os.utime(tmp_path / name, (0, 0))
    bound(monkeypatch, 0)
    entry(tmp_path, "a", 900)
    make_room(tmp_path)
    remove_left_behind(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "fetch-AMD-EPYC-x2-serving.json.d",
        "my.own-folder",
        "samples",
    ]


def test_what_was_being_removed_or_measured_with_by_a_killed_process_is_removed(tmp_path: Path) -> None:
    half, probe, young = (
        tmp_path / f"{'a' * 32}.12-0123abcd",
        tmp_path / f"{PROBE_PREFIX}x",
        tmp_path / f"{PROBE_PREFIX}y",
    )
    for place in (half, probe, young):
        place.mkdir()
        (place / "weights.bin").write_bytes(b"x")
    for place in (half, probe):
        os.utime(place, (0, 0))
    remove_left_behind(tmp_path)
    assert list(tmp_path.iterdir()) == [young]


@pytest.mark.parametrize("name", ["models.bin", "weights.bin", "units.json"])
def test_a_folder_that_lacks_a_file_is_prepared_anew(tmp_path: Path, name: str) -> None:
    """Cleaners of temporary folders remove what was not read for long, file by file."""
    folder, _ = entry(tmp_path, "a", 900)
    (folder / name).unlink()
    assert prepared(folder, filled).index == read_index(folder)
    assert (folder / "models.bin").read_bytes() == b"models"
