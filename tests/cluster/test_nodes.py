"""Real nodes: pods, names, networks, volumes, unequal speed."""

import json
import statistics
from typing import Any

import pytest

from e2e.cluster import Cluster
from e2e.cluster.spec import EMULATED_ANNOTATION, EMULATED_RESOURCE
from e2e.cluster.testing import PROBE_IMAGE, kubectl

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SPIN = "import time; c = time.process_time(); n = 0\nwhile time.process_time() - c < 0.3: n += 1\n"
MEASURE = f"import time; t = time.perf_counter()\n{SPIN}print(time.perf_counter() - t)"
UNPRIVILEGED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
RESTRICTED = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}


def container(name: str, *command: str, **more: Any) -> dict[str, Any]:
    base = {"name": name, "image": PROBE_IMAGE, "command": list(command), "securityContext": UNPRIVILEGED}
    return {**base, "imagePullPolicy": "IfNotPresent", **more}


def server_pod(node: str) -> dict[str, Any]:
    """A restricted pod on a node: a native sidecar, and a server that offers the shared volume."""
    serve = "cd /data && touch $(hostname) && exec python3 -m http.server 8080"
    mounts = [{"name": "data", "mountPath": "/data"}]
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    limits = {"limits": {"cpu": "2", "memory": "128Mi"}, "requests": {"cpu": "50m", "memory": "32Mi"}}
    main = container("main", "sh", "-c", serve, volumeMounts=mounts, readinessProbe=probe, resources=limits)
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "securityContext": RESTRICTED,
        "terminationGracePeriodSeconds": 1,
        "initContainers": [container("side", "sleep", "infinity", restartPolicy="Always")],
        "containers": [main],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "shared"}}],
    }
    metadata = {"name": f"on-{node}", "labels": {"app": "server"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def service(name: str, **more: Any) -> dict[str, Any]:
    spec = {"selector": {"app": "server"}, "ports": [{"port": 8080}], **more}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "shared"},
    "spec": {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "batchwright-shared",
        "resources": {"requests": {"storage": "1Gi"}},
    },
}


@pytest.fixture(scope="module")
def servers(cluster: Cluster) -> Cluster:
    """The cluster with a ready server pod on each node, in a namespace that enforces `restricted`."""
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "probe", "labels": label}}
    kubectl(cluster.kubeconfig, "create", "-f", "-", stdin=json.dumps(space))
    items = [CLAIM, service("web"), service("peers", clusterIP="None"), server_pod("fast"), server_pod("slow")]
    listing = {"apiVersion": "v1", "kind": "List", "items": items}
    kubectl(cluster.kubeconfig, "-n=probe", "create", "-f", "-", stdin=json.dumps(listing))
    kubectl(cluster.kubeconfig, "-n=probe", "wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s")
    return cluster


def in_pod(cluster: Cluster, pod: str, script: str) -> str:
    return kubectl(cluster.kubeconfig, "-n=probe", "exec", "-i", pod, "-c=main", "--", "python3", "-", stdin=script)


def addresses(cluster: Cluster, name: str) -> list[str]:
    script = f"import socket; print(*{{a[4][0] for a in socket.getaddrinfo({name!r}, 80)}})"
    return sorted(in_pod(cluster, "on-slow", script).split())


def test_allocatable_is_what_the_quota_allows(cluster: Cluster) -> None:
    nodes = cluster.control_plane.api.get("/api/v1/nodes")["items"]
    found = {node["metadata"]["name"]: node["status"]["allocatable"] for node in nodes}
    assert {name: (amounts["cpu"], amounts["memory"]) for name, amounts in found.items()} == {
        "fast": ("1", "4Gi"),
        "slow": ("500m", "4Gi"),
    }


def test_an_emulated_accelerator_is_advertised(cluster: Cluster) -> None:
    node = cluster.control_plane.api.get("/api/v1/nodes/fast")
    assert node["status"]["allocatable"][EMULATED_RESOURCE] == "1"
    assert json.loads(node["metadata"]["annotations"][EMULATED_ANNOTATION]) == {
        "fixedMicroseconds": 10_000,
        "perRowMicroseconds": 2_000,
        "memoryBytes": 1 << 30,
    }


def test_a_pods_cgroup_lies_below_its_nodes(servers: Cluster) -> None:
    groups = in_pod(servers, "on-slow", "print(open('/proc/self/cgroup').read())")
    assert servers.nodes["slow"].cgroup in groups


def test_names_of_services_resolve(servers: Cluster) -> None:
    service_ip = servers.control_plane.api.get("/api/v1/namespaces/probe/services/web")["spec"]["clusterIP"]
    assert addresses(servers, "web") == addresses(servers, "web.probe.svc.cluster.local") == [service_ip]
    assert addresses(servers, "kubernetes.default.svc.cluster.local") == [servers.control_plane.spec.kubernetes_service]


def test_a_headless_service_has_an_address_per_pod(servers: Cluster) -> None:
    pods = servers.control_plane.api.get("/api/v1/namespaces/probe/pods")["items"]
    assert addresses(servers, "peers") == sorted(pod["status"]["podIP"] for pod in pods)


@pytest.mark.parametrize("pod", ["on-fast", "on-slow"])
def test_pods_reach_each_other_services_and_the_api_server(servers: Cluster, pod: str) -> None:
    script = """
import socket, ssl, http.client, urllib.request
hosts = [a[4][0] for a in socket.getaddrinfo("peers", 80, type=socket.SOCK_STREAM)] + ["web"] * 4
print(*[urllib.request.urlopen(f"http://{host}:8080/", timeout=60).status for host in hosts])
tls = ssl._create_unverified_context()
api = http.client.HTTPSConnection("kubernetes.default", timeout=60, context=tls)
api.request("GET", "/version")
print(api.getresponse().status)
"""
    assert in_pod(servers, pod, script).split() == ["200"] * 7


def test_every_node_sees_the_same_shared_volume(servers: Cluster) -> None:
    script = "import os; print(*sorted(os.listdir('/data')))"
    assert {in_pod(servers, pod, script) for pod in ("on-fast", "on-slow")} == {"on-fast on-slow\n"}


def test_logs_come_from_the_kubelet(servers: Cluster) -> None:
    assert "GET / HTTP/1.1" in kubectl(servers.kubeconfig, "-n=probe", "logs", "on-fast", "-c=main")


def test_the_slow_node_is_slower(servers: Cluster) -> None:
    """The same work, measured on one node after the other so that the rest of the machine weighs on both alike."""
    ratios = [float(in_pod(servers, "on-slow", MEASURE)) / float(in_pod(servers, "on-fast", MEASURE)) for _ in range(3)]
    assert 1.3 < statistics.median(ratios) < 3.5, ratios


def test_load_beside_the_pods_takes_its_share_of_the_quota(servers: Cluster) -> None:
    quiet = float(in_pod(servers, "on-slow", MEASURE))
    burner = servers.nodes["slow"].run_in_node("burner", ["/bin/sh", "-c", "while :; do :; done"])
    try:
        assert float(in_pod(servers, "on-slow", MEASURE)) > 1.3 * quiet
    finally:
        burner.kill()
        burner.wait()


def test_an_image_is_loaded_once(servers: Cluster, probe_archive: Any) -> None:
    assert not servers.nodes["fast"].load_image(probe_archive)
