"""Which seats of the API server the operator takes: its own, and for the Lease those of leader elections."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from e2e.cluster import ControlPlane

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = "system:serviceaccount:batchwright-system:batchwright-operator"
SOMEBODY = "system:serviceaccount:default:default"
CONTROL = "/apis/flowcontrol.apiserver.k8s.io/v1"


@pytest.fixture(scope="module")
def cluster(kubectl: Callable[..., Any], plane: ControlPlane) -> ControlPlane:
    """With the operator's flow control and rights."""
    for name in ("namespaces", "rbac", "flowcontrol"):
        kubectl("apply", "--server-side", "-f", str(ROOT / "manifests" / "base" / f"{name}.yaml"))
    return plane


def level_of(plane: ControlPlane, user: str, path: str) -> str:
    """The priority level that the API server says it gave this request."""
    pair = plane.authority.client(user.replace(":", "-"), user, "system:serviceaccounts")
    tls = ssl.create_default_context(cafile=str(plane.ca_path))
    tls.load_cert_chain(pair.certificate, pair.key)
    address = urlsplit(plane.server_url)
    connection = http.client.HTTPSConnection(address.hostname or "", address.port, context=tls, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        uid = connection.getresponse().getheader("X-Kubernetes-PF-PriorityLevel-UID")
    levels = plane.api.get(f"{CONTROL}/prioritylevelconfigurations")["items"]
    return next((each["metadata"]["name"] for each in levels if each["metadata"]["uid"] == uid), "none")


@pytest.mark.parametrize(
    ("user", "path", "level"),
    [
        (OPERATOR, "/api/v1/pods", "batchwright-operator"),
        (OPERATOR, "/apis/batchwright.dev/v1alpha1/modeldeployments", "batchwright-operator"),
        (
            OPERATOR,
            "/apis/coordination.k8s.io/v1/namespaces/batchwright-system/leases/batchwright-operator",
            "leader-election",
        ),
        (OPERATOR, "/apis/coordination.k8s.io/v1/namespaces/default/leases/x", "batchwright-operator"),
        (SOMEBODY, "/api/v1/pods", "workload-low"),
    ],
)
def test_requests_are_given_their_seats(cluster: ControlPlane, user: str, path: str, level: str) -> None:
    seen = ""
    for _ in range(50):  # the API server takes a moment to see a new schema
        if (seen := level_of(cluster, user, path)) == level:
            return
    assert seen == level
