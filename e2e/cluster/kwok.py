"""Simulated nodes by kwok: thousands of nodes whose pods "run" at once, for tests of scale.

    with ControlPlane.start("scale", controller_manager_args=kwok.CONTROLLER_MANAGER_ARGS) as plane:
        kwok.start(plane)
        kwok.add_nodes(plane.api, 1000)

A thousand nodes are Ready in 10 s on two idle cores.
"""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from e2e.cluster.build import components
from e2e.cluster.control_plane.api import Api, Object
from e2e.cluster.control_plane.server import ControlPlane
from e2e.cluster.machine import processes
from e2e.cluster.machine.errors import StartError
from e2e.cluster.machine.paths import write_private
from e2e.cluster.machine.processes import Process
from e2e.cluster.machine.waiting import wait_until

_CONNECTIONS = 4
ANNOTATION = "kwok.x-k8s.io/node"
CONTROLLER_MANAGER_ARGS = ("--node-monitor-grace-period=24h",)  # simulated nodes send no heartbeat: it costs too much


def start(plane: ControlPlane, folder: Path | None = None, *, cidr: str = "10.254.0.0/16") -> Process:
    """Start kwok's controller beside a control plane; it ends with the plane. Pods get addresses of `cidr`."""
    home = folder or plane.folder
    program = components.program("kwok")
    stages = subprocess.run([program, "stages"], check=True, capture_output=True, text=True).stdout
    config = write_private(home / "kwok-stages.yaml", stages)
    command = [
        str(program),
        f"--kubeconfig={plane.kubeconfig}",
        f"--config={config}",
        f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake",
        "--node-lease-duration-seconds=0",
        f"--cidr={cidr}",
    ]
    return processes.spawn("kwok", command, folder=home, cgroups=[Path(path) for path in plane.spec.cgroups])


def add_nodes(
    api: Api,
    count: int,
    *,
    prefix: str = "kwok",
    resources: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    timeout_s: float = 120.0,
) -> list[str]:
    """Make `count` simulated nodes PREFIX-0000 ...; their names, when all are Ready."""
    capacity = {"cpu": "32", "memory": "256Gi", "pods": "110", **(resources or {})}
    names = [f"{prefix}-{number:04d}" for number in range(count)]
    nodes = [_node(name, capacity, labels or {}) for name in names]
    with ThreadPoolExecutor(max_workers=_CONNECTIONS) as pool:
        list(pool.map(lambda first: api.create_all("/api/v1/nodes", nodes[first::_CONNECTIONS]), range(_CONNECTIONS)))
    if not wait_until(lambda: _ready_count(api, prefix) >= count, timeout_s=timeout_s, interval_s=1.0):
        raise StartError(f"only {_ready_count(api, prefix)} of {count} simulated nodes became Ready")
    return names


def _node(name: str, capacity: dict[str, str], labels: dict[str, str]) -> Object:
    standard = {
        "type": "kwok",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": {ANNOTATION: "fake"}, "labels": {**standard, **labels}},
        "status": {"capacity": capacity, "allocatable": capacity},
    }


def _ready_count(api: Api, prefix: str) -> int:
    nodes = api.get("/api/v1/nodes")["items"]
    return sum(is_ready(node) for node in nodes if node["metadata"]["name"].startswith(f"{prefix}-"))


def is_ready(node: Object) -> bool:
    """Whether a node object says that it is Ready."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
