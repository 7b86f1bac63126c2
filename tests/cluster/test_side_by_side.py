"""What all clones on a machine share, the cache above all, is used by one at a time and taken away from nobody."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from e2e.cluster.build import images
from e2e.cluster.machine.locking import alone

HOLDER = """
import sys
from e2e.cluster.machine.locking import alone
with alone("x"):
    print("in", flush=True)
    sys.stdin.read()
"""
DOCKERFILE = "FROM scratch\nCOPY file /\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "batchwright"


def test_another_process_waits_and_says_for_what() -> None:
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "in\n"
        with contextlib.redirect_stderr(LetsGo(holder.stdin)) as told, alone("x", waiting="waiting for x"):
            assert holder.stdin.closed
        assert "waiting for x" in told.getvalue()


class LetsGo(io.StringIO):
    """Standard error that ends the holder once we say that we wait."""

    def __init__(self, holder: IO[str]) -> None:
        super().__init__()
        self._holder = holder

    def write(self, text: str) -> int:
        self._holder.close()
        return super().write(text)


def test_other_names_do_not_wait() -> None:
    with alone("a"), alone("b"):
        pass


def test_threads_of_one_process_take_turns() -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with alone("y"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Builds the image of a clone whose file has this text; buildah's part is to copy it, slowly."""
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    store = tmp_path / "store"  # one tag for all clones

    def bud(command: list[str], _log: Path) -> None:
        store.write_text((Path(command[-1]) / "file").read_text())
        time.sleep(0.1)

    monkeypatch.setattr(images, "_run", bud)
    monkeypatch.setattr(images, "_export", lambda name, archive, log: archive.write_text(store.read_text()))

    def built(text: str) -> Path:
        clone = tmp_path / text
        clone.mkdir(exist_ok=True)
        (clone / "file").write_text(text)
        arguments = {"BASE": "scratch"}
        return images.build_image("x:1", dockerfile=tmp_path / "Dockerfile", context=clone, build_args=arguments)

    return built


def test_clones_that_build_one_name_at_once_each_get_their_own_image(build: Callable[[str], Path]) -> None:
    found: dict[str, str] = {}

    def clone(text: str) -> None:
        found[text] = build(text).read_text()

    threads = [threading.Thread(target=clone, args=(text,)) for text in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"one": "one", "two": "two", "three": "three"}


def test_an_archive_goes_when_nobody_has_asked_for_it_for_hours(cache: Path) -> None:
    folder = cache / "images"
    folder.mkdir(parents=True)
    mine, used, old = (folder / f"x-1-{digit * 16}.tar" for digit in "abc")
    for path in (mine, used, old):
        path.touch()
    os.utime(old, (time.time() - 4 * 3600,) * 2)
    images._forget_outdated("x:1", mine)
    assert mine.exists()
    assert used.exists()
    assert not old.exists()
