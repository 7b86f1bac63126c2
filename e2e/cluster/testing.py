"""Fixtures for pytest: import those you want into a conftest.

    from e2e.cluster.testing import control_plane, control_planes, make_cluster  # noqa: F401

Everything that they start ends with the test session.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.build.components import kubectl_path
from e2e.cluster.cluster import Cluster
from e2e.cluster.control_plane.server import ControlPlane
from e2e.cluster.spec import ClusterSpec, NodeSpec

PROBE_IMAGE = "localhost/batchwright/probe:1"
UNEQUAL_NODES = (NodeSpec(name="fast", cpus=1.0, emulated=1), NodeSpec(name="slow", cpus=0.5))


@pytest.fixture(scope="session")
def control_planes() -> Iterator[Callable[..., ControlPlane]]:
    """Start control planes: the arguments are those of `ControlPlane.start`."""
    with contextlib.ExitStack() as stack:

        def start(name: str = "tests", **options: Any) -> ControlPlane:
            return stack.enter_context(ControlPlane.start(name, **options))

        yield start


@pytest.fixture(scope="session")
def control_plane(control_planes: Callable[..., ControlPlane]) -> ControlPlane:
    """One control plane for the whole session, with scheduler and audit log."""
    return control_planes("session")


@pytest.fixture(scope="session")
def make_cluster() -> Iterator[Callable[..., Cluster]]:
    """Start clusters of real nodes: a short name, and fields of ClusterSpec; the nodes are UNEQUAL_NODES by default.

    The process id becomes part of the name, so that test sessions do not meet.
    """
    with contextlib.ExitStack() as stack:

        def up(name: str = "t", **options: Any) -> Cluster:
            options.setdefault("nodes", UNEQUAL_NODES)
            return stack.enter_context(Cluster.up(ClusterSpec(name=f"{name}-{os.getpid()}", **options)))

        yield up


def kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None, timeout_s: float = 60) -> str:
    """What kubectl says; an assertion fails with its message if it does not succeed."""
    command = [str(kubectl_path()), f"--kubeconfig={kubeconfig}", *arguments]
    finished = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert finished.returncode == 0, f"kubectl {' '.join(arguments)}: {finished.stderr}"
    return finished.stdout
