"""The layout is what `.importlinter` says; here is what import-linter cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "batchwright_operator": ROOT / "operator" / "batchwright_operator",
    "batchwright_worker": ROOT / "worker" / "batchwright_worker",
}
MOST_SHARED_NAMES = 9


def sources(package: Path) -> Iterator[tuple[str, ast.Module]]:
    """Every module that somebody wrote, as its path within the package."""
    for path in sorted(package.rglob("*.py")):
        if "_pb2" not in path.name:
            yield path.relative_to(package).with_suffix("").as_posix(), ast.parse(path.read_text())


def shared_names(modules: Mapping[str, ast.Module]) -> dict[str, dict[str, str]]:
    """Names of public and private classes that stand in several modules -> module -> docstring."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for where, tree in modules.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                found[node.name][where] = ast.get_docstring(node) or ""
    return {name: places for name, places in found.items() if len(places) > 1}


def without_reason(places: Mapping[str, str]) -> bool:
    """Does no docstring of these classes name another of their modules, to say how they differ?"""
    return not any(f"`{other}`" in doc for where, doc in places.items() for other in places if other != where)


def test_a_class_name_means_one_thing_in_a_package() -> None:
    for package in PACKAGES.values():
        shared = shared_names(dict(sources(package)))
        unexplained = {name: sorted(places) for name, places in shared.items() if without_reason(places)}
        assert not unexplained, "rename one, or name the other's module in a docstring and say how they differ"
        assert len(shared) <= MOST_SHARED_NAMES, sorted(shared)


def test_the_check_of_names_sees_a_second_meaning() -> None:
    one, two = ast.parse("class A: ..."), ast.parse("class A:\n    '''Not that of `one`.'''")
    assert without_reason(shared_names({"one": one, "three": one})["A"])
    assert not without_reason(shared_names({"one": one, "two": two})["A"])
    assert shared_names({"one": one, "two": ast.parse("class B: ...")}) == {}


@pytest.mark.parametrize("package", PACKAGES.values(), ids=PACKAGES)
def test_every_room_says_what_it_is_for(package: Path) -> None:
    for folder in sorted({path.parent for path in package.rglob("*.py")}):
        room = folder / "__init__.py"
        assert room.exists(), f"{folder} has no __init__.py"
        assert ast.get_docstring(ast.parse(room.read_text())), f"{room} does not say what the room is for"


def test_operator_folder_is_no_package() -> None:
    """It would shadow the standard library's `operator`."""
    assert not (ROOT / "operator" / "__init__.py").exists()


CONTRACTS = """[importlinter]
root_packages =
    house
[importlinter:contract:layers]
name = layers
type = layers
containers = house
exhaustive = true
layers =
    high
    low
[importlinter:contract:circles]
name = circles
type = acyclic_siblings
ancestors = house
"""


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """As `make check` does."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_contracts_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"high/b.py": "import house.low.a", "low/a.py": ""}, "2 kept, 0 broken"),
        ({"high/b.py": "import house.low.a", "low/a.py": "import house.high.c", "high/c.py": ""}, "0 kept, 2 broken"),
        ({"high/b.py": "", "low/a.py": "", "nowhere.py": ""}, "nowhere"),
    ],
    ids=["downwards", "upwards and so in a circle", "a module of no layer"],
)
def test_the_contracts_can_fail(tmp_path: Path, written: Mapping[str, str], words: str) -> None:
    (tmp_path / ".importlinter").write_text(CONTRACTS)
    for name in ("__init__.py", "high/__init__.py", "low/__init__.py", *written):
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written.get(name, ""))
    done = lint(tmp_path)
    assert words in done.stdout
    assert (done.returncode == 0) == ("0 broken" in words)
