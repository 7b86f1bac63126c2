"""The demo, told once a session on a cluster of its own; the scenarios run on what it leaves standing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import Cluster, kubectl_path, teardown
from e2e.demo import report
from e2e.demo.kubectl import Kubectl
from tests.e2e.stage import DEMO, DEMO_DOWN, Stage

ROOT = Path(__file__).resolve().parents[2]
NAME = os.environ.get("BATCHWRIGHT_E2E_CLUSTER", f"e2e-{os.getpid()}")
"""A name, and BATCHWRIGHT_E2E_KEEP=1, run the scenarios again and again on one standing cluster."""


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The embedded cluster with the demo's whole story told on it, by the commands that the README gives."""
    told = tmp_path_factory.mktemp("demo") / "report.json"  # build/demo may be that of a demo at work
    try:
        type_command(DEMO, BATCHWRIGHT_DEMO_REPORT=str(told))
        cluster = Cluster.attach(NAME)
        kubectl = Kubectl(binary=kubectl_path(), kubeconfig=cluster.kubeconfig)
        yield Stage(kubectl=kubectl, report=report.load(told), cluster=cluster)
    finally:
        if not os.environ.get("BATCHWRIGHT_E2E_KEEP"):
            type_command(DEMO_DOWN)
    assert os.environ.get("BATCHWRIGHT_E2E_KEEP") or NAME not in teardown.known_clusters()


def type_command(command: str, **environ: str) -> None:
    """A command of make, on this session's embedded cluster; the environment of the tests is not made anew."""
    environment = {**os.environ, "BATCHWRIGHT_CLUSTER": NAME, "CLUSTER": "embedded", **environ}
    program, *arguments = command.split()
    subprocess.run([program, "-o", ".venv/.installed", *arguments], cwd=ROOT, env=environment, check=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the demo; a session that tells it takes minutes, so no test's own time-out counts it."""
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.demo)
            item.add_marker(pytest.mark.timeout(1800))
