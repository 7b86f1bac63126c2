"""The pages name files, commands and links that exist, and can be read in a terminal."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.house.commands import PAGES, ROOT, scripts

LASTING = [path for path in PAGES if path.name != "measurements.md"]  # a record of what was then
WIDTH = 120


def names(pages: list[Path]) -> list[str]:
    """For pytest's ids."""
    return [path.relative_to(ROOT).as_posix() for path in pages]


def mentioned(text: str) -> set[str]:
    """What stands in backticks and begins as a path of this repository does."""
    folders = "operator|worker|tests|e2e|docs|manifests|crds|examples|images|locks"
    return set(re.findall(rf"`((?:{folders})/[\w./-]*)(?:::?\w+)?`", text))


@pytest.mark.parametrize("page", LASTING, ids=names(LASTING))
def test_files_and_links_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    links = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    gone = [path for path in sorted(mentioned(text)) if not (ROOT / path).exists()]
    gone += [link for link in links if not (page.parent / link).exists()]
    assert not gone


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_commands_of_make_that_a_page_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    typed = {line.split()[1] for block in scripts(page) for line in block.lines if line.startswith("make ")}
    assert typed | set(re.findall(r"`make ([a-z-]+)", page.read_text())) <= targets


def test_make_help_says_how_long_each_command_takes() -> None:
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.M)
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    times = dict(re.findall(r"^([a-z-]+) +\[([^]]+)\] +\S", said, flags=re.M))
    assert declared
    assert set(times) == set(declared[1].split())
    time = re.compile(r"(at once|[\d.]+ (s|min|h))(; [\d.]+ min the first time)?")
    assert [each for each in times.values() if not time.fullmatch(each)] == []


@pytest.mark.parametrize("page", LASTING, ids=names(LASTING))
def test_lines_fit_a_terminal(page: Path) -> None:
    """Rows of tables may be longer: they cannot be broken."""
    lines = enumerate(page.read_text().splitlines(), start=1)
    assert not [number for number, line in lines if len(line) > WIDTH and not line.startswith("|")]


def test_every_room_is_on_the_map() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [
        folder.parent.name
        for package in ("operator/batchwright_operator", "worker/batchwright_worker")
        for folder in (ROOT / package).glob("*/__init__.py")
    ]
    assert [room for room in rooms if f"`{room}`" not in text] == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page.name != "README.md" and f"({page.as_posix()})" not in index] == []
