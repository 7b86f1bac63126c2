"""Which files a module consists of, for digests of code."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchwright_worker.artifacts.python_sources import digest_of_modules, sources_of

FILES = {
    "entry_a.py": "import json\nfrom package_a import tables\nfrom package_a.deep import *\n",
    "package_a/__init__.py": "from .words import LIST\n",
    "package_a/words.py": "LIST = ['a']\n",
    "package_a/tables.py": "def f():\n    import late_a\n",
    "package_a/deep/__init__.py": "from ..words import LIST\n",
    "package_a/other.py": "",
    "late_a.py": "import numpy\n",
    "unused_a.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_module_brings_what_it_imports_from_the_users_folders(folder: Path) -> None:
    used = {name for name in FILES if name not in ("unused_a.py", "package_a/other.py")}
    assert set(sources_of(["entry_a"]).values()) == {folder / name for name in used}


@pytest.mark.parametrize("name", ["entry_a.py", "package_a/words.py", "late_a.py", "package_a/deep/__init__.py"])
def test_a_change_anywhere_below_is_another_digest(folder: Path, name: str) -> None:
    before = digest_of_modules(["entry_a"])
    assert digest_of_modules(["entry_a"]) == before
    (folder / name).write_text(FILES[name] + "\nMORE = 1\n")
    assert digest_of_modules(["entry_a"]) != before


def test_what_is_not_imported_changes_nothing(folder: Path) -> None:
    before = digest_of_modules(["entry_a"])
    (folder / "unused_a.py").write_text("MORE = 1\n")
    assert digest_of_modules(["entry_a"]) == before


def test_of_our_own_package_only_the_room_of_the_function_counts() -> None:
    found = sources_of(["batchwright_worker.runner.cpu.builtin.pictures"])
    room = "batchwright_worker.runner.cpu.builtin"
    assert set(found) == {f"{room}.pictures", f"{room}.source"}


def test_a_file_that_is_no_python_counts_as_it_is(folder: Path) -> None:
    (folder / "late_a.py").write_text("import (\n")
    assert "late_a" in sources_of(["entry_a"])
