"""Fixtures: one API server per module, one empty cluster per test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import ControlPlane, kubectl_path
from tests.reconcile.bed import ROOT, SYSTEM, Bed, wait


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server with our CRDs."""
    with ControlPlane.start("faults", scheduler=False) as plane:
        prepare(plane)
        yield plane


def prepare(plane: ControlPlane) -> None:
    """Our CRDs, and the operator's namespace."""
    command = [str(kubectl_path()), "--kubeconfig", str(plane.kubeconfig), "apply", "--server-side", "-f", "crds"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": SYSTEM}})
    names = ("modeldeployments", "inferencejobs", "acceleratorprofiles")
    kinds = [f"/apis/batchwright.dev/v1alpha1/{name}" for name in names]
    wait(lambda: all(map(plane.api.exists, kinds)), 20, lambda: "the CRDs are not served")


@pytest.fixture
def bed(plane: ControlPlane, tmp_path: Path) -> Iterator[Bed]:
    """An empty cluster."""
    bed = Bed(plane=plane, folder=tmp_path)
    yield bed
    bed.clean()
