"""Fixtures: a real API server with our CRDs, kubectl, and an operator process against it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import ControlPlane, kubectl_path

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = "system:serviceaccount:batchwright-system:batchwright-operator"
Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd, API server and controller manager; no nodes."""
    with ControlPlane.start(f"reconcilers-{os.getpid()}", scheduler=False) as plane:
        yield plane


@pytest.fixture(scope="session")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """Runs kubectl; fails the test if it fails, unless `check=False`. A dict as `text` is sent as YAML."""

    def run(*arguments: str, text: str | dict[str, Any] | None = None, check: bool = True) -> Any:
        command = [str(kubectl_path()), "--kubeconfig", str(control_plane.kubeconfig), *arguments]
        sent = yaml.safe_dump(text) if isinstance(text, dict) else text
        done = subprocess.run(command, input=sent, text=True, capture_output=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def with_crds(kubectl: Kubectl) -> Kubectl:
    """kubectl, with the CRDs established."""
    kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(ROOT / "crds"))
    return kubectl


def namespace(kubectl: Kubectl, name: str) -> str:
    """A namespace with Pod Security restricted enforced."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    kubectl(
        "apply", "-f", "-", text={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    )
    return name


def service_account(kubectl: Kubectl, plane: ControlPlane) -> Path:
    """A kubeconfig with the identity, so the permissions, that the manifests give to the operator."""
    base = ROOT / "manifests" / "base"
    for name in ("namespaces.yaml", "rbac.yaml", "admission.yaml"):
        kubectl("apply", "-f", str(base / name))
    return plane.kubeconfig_for(OPERATOR, "system:serviceaccounts")


@contextmanager
def operator(kubeconfig: Path, folder: Path, *reconcilers: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """The operator with these reconcilers only, as a process; stopped by SIGTERM, killed if it lingers. `settings` are
    environment variables."""
    environ = {
        **os.environ,
        **settings,
        "BATCHWRIGHT_RECONCILERS": yaml.safe_dump(list(reconcilers), default_flow_style=True, width=999).strip(),
    }
    command = [sys.executable, "-m", "batchwright_operator", "run", "--kubeconfig", str(kubeconfig)]
    command += ["--namespace", "batchwright-system", "--metrics-port", "0"]
    with (folder / "operator.log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def eventually(read: Callable[[], Any], what: str, *, within_s: float = 90.0) -> Any:
    """The first truthy answer of `read`; fails the test after `within_s`."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if answer := read():
            return answer
        time.sleep(0.1)
    pytest.fail(f"not within {within_s:.0f} s: {what}")
