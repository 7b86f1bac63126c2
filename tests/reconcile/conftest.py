"""Fixtures: one API server per module, one empty cluster per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import ControlPlane
from tests.reconcile.bed import Bed, prepare


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server with our CRDs."""
    with ControlPlane.start("faults", scheduler=False) as plane:
        prepare(plane)
        yield plane


@pytest.fixture
def bed(plane: ControlPlane, tmp_path: Path) -> Iterator[Bed]:
    """An empty cluster."""
    bed = Bed(plane=plane, folder=tmp_path)
    yield bed
    bed.clean()
