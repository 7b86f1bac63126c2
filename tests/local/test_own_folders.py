"""What a killed process left is removed by the next one, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchwright_worker.file_locks import taken
from batchwright_worker.local.own_folders import own_folder


@pytest.fixture
def dead() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def folder_of(root: Path, pid: int, *, age_s: float = 0.0) -> Path:
    folder = root / f"bw-{pid}-abc"
    folder.mkdir()
    made = folder.stat().st_mtime - age_s
    os.utime(folder, (made, made))
    return folder


def test_what_a_dead_process_left_is_removed(tmp_path: Path, dead: int) -> None:
    left = folder_of(tmp_path, dead)
    (left / ".lock").touch()
    own_folder(tmp_path, "bw-")
    assert not left.exists()


def test_the_folder_of_a_process_of_another_container_stays(tmp_path: Path, dead: int) -> None:
    """Its number is that of no process here."""
    folder = folder_of(tmp_path, dead)
    held = taken(folder / ".lock", create=True)
    assert held is not None
    try:
        own_folder(tmp_path, "bw-")
        assert folder.exists()
    finally:
        held.release()


@pytest.mark.parametrize(("age_s", "stays"), [(0.0, True), (3600.0, False)])
def test_one_that_was_just_made_stays(tmp_path: Path, dead: int, age_s: float, stays: bool) -> None:
    folder = folder_of(tmp_path, dead, age_s=age_s)
    own_folder(tmp_path, "bw-")
    assert folder.exists() == stays


def test_what_is_no_such_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "bw-of-somebody").mkdir()
    mine = own_folder(tmp_path, "bw-")
    assert {path.name for path in tmp_path.iterdir()} == {"bw-of-somebody", mine.name}
