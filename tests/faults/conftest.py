"""Fixtures: one API server per module, one empty cluster per test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import ControlPlane, kubectl_path
from tests.faults.bed import OBJECTS, ROOT, SYSTEM, Bed, wait


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server with our CRDs."""
    with ControlPlane.start("faults", scheduler=False) as plane:
        command = [str(kubectl_path()), "--kubeconfig", str(plane.kubeconfig), "apply", "--server-side", "-f", "crds"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": SYSTEM}})
        wait(lambda: plane.api.exists(OBJECTS), 10, lambda: "the CRDs are not served")
        yield plane


@pytest.fixture
def bed(plane: ControlPlane, tmp_path: Path) -> Iterator[Bed]:
    """An empty cluster."""
    bed = Bed(plane=plane, folder=tmp_path)
    yield bed
    bed.clean()
