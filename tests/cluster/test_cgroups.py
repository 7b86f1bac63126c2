"""Cgroups are looked through while pods end, whose folders go then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.machine import cgroups


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cgroups of cluster c in a hierarchy of their own, two pods in them."""
    monkeypatch.setattr(cgroups, "_roots", lambda cluster: [tmp_path / cgroups.root_name(cluster)])
    for number, pod in enumerate(("ends", "stays"), 7):
        folder = tmp_path / cgroups.root_name("c") / "node" / pod
        folder.mkdir(parents=True)
        (folder / "cgroup.procs").write_text(f"{number}\n0\n")
    return tmp_path / cgroups.root_name("c")


def test_the_members_are_those_of_all_below(tree: Path) -> None:
    assert cgroups.members("c") == {7, 8}


def test_a_pod_that_ends_meanwhile_is_passed_over(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = cgroups.os.scandir

    def scandir(path: str) -> Iterator[object]:
        if Path(path).name == "ends":
            raise FileNotFoundError(path)
        return walk(path)  # type: ignore[return-value]

    monkeypatch.setattr(cgroups.os, "scandir", scandir)
    assert 8 in cgroups.members("c")
