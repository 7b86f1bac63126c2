"""The folders of manifests/, built by the embedded cluster's kubectl; and one API server for all tests here."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import ControlPlane, kubectl_path

ROOT = Path(__file__).resolve().parents[2]
Objects = list[dict[str, Any]]


@pytest.fixture(scope="session")
def built() -> Callable[[str], Objects]:
    """`kubectl kustomize manifests/FOLDER`, parsed; each folder is built once."""
    cache: dict[str, Objects] = {}

    def build(folder: str) -> Objects:
        if folder not in cache:
            command = [str(kubectl_path()), "kustomize", str(ROOT / "manifests" / folder)]
            done = subprocess.run(command, text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            cache[folder] = [document for document in yaml.safe_load_all(done.stdout) if document]
        return cache[folder]

    return build


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """etcd, API server and controller manager, with the CRDs and namespaces of the product."""
    with ControlPlane.start("manifest-tests") as control_plane:
        yield control_plane


@pytest.fixture(scope="session")
def kubectl(plane: ControlPlane) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs kubectl; fails the test if it fails, unless `check=False`."""

    def run(*arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(kubectl_path()), "--kubeconfig", str(plane.kubeconfig), *arguments]
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run
