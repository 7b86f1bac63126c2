"""One real API server with the CRDs for all tests of this folder."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.cluster import ControlPlane, kubectl_path
from e2e.cluster.machine.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd, API server and controller manager."""
    with ControlPlane.start("api-tests") as plane:
        yield plane


@pytest.fixture(scope="session")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """Runs kubectl; fails the test if it fails, unless `check=False`."""

    def run(*arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(kubectl_path()), "--kubeconfig", str(control_plane.kubeconfig), *arguments]
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def crds(kubectl: Kubectl) -> None:
    """The CRDs are established."""
    kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(ROOT / "crds"))


@pytest.fixture(scope="session")
def explained(crds: None, control_plane: ControlPlane) -> None:
    """The API server has published the kinds' OpenAPI, which it does some seconds after they are established."""
    kinds = ("ModelDeployment", "InferenceJob", "AcceleratorProfile")

    def published() -> bool:
        path = "/openapi/v3/apis/batchwright.dev/v1alpha1"
        if not control_plane.api.exists(path):
            return False
        schemas = control_plane.api.get(path)["components"]["schemas"]
        return all(f"dev.batchwright.v1alpha1.{kind}" in schemas for kind in kinds)

    assert wait_until(published, timeout_s=60, interval_s=0.2), "the OpenAPI of the CRDs is not published"
