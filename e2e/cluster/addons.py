"""What every cluster has from the start: cluster DNS, shared volumes, emulated accelerators."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from e2e.cluster.build import components
from e2e.cluster.control_plane.api import Api, Object
from e2e.cluster.control_plane.server import ControlPlane
from e2e.cluster.machine import processes
from e2e.cluster.machine.errors import StartError
from e2e.cluster.machine.network import Network
from e2e.cluster.machine.paths import write_private
from e2e.cluster.machine.processes import Process
from e2e.cluster.machine.waiting import wait_until
from e2e.cluster.spec import EMULATED_ANNOTATION, EMULATED_RESOURCE, STORAGE_CLASS, NodeSpec

_DNS_USER = "system:coredns"
_READY_PORT = 8181
_VOLUME_SIZE = "100Gi"


def start_dns(plane: ControlPlane, network: Network, folder: Path) -> Process:
    """Start CoreDNS on the host's address of the bridge, behind the service kube-system/kube-dns."""
    for path, body in _dns_objects(network):
        plane.api.apply(path, body)
    kubeconfig = plane.kubeconfig_for(_DNS_USER)
    corefile = write_private(folder / "Corefile", _corefile(network, kubeconfig))
    command = [str(components.program("coredns")), f"-conf={corefile}"]
    return processes.spawn("coredns", command, folder=folder, cgroups=[Path(path) for path in plane.spec.cgroups])


def await_dns(network: Network, process: Process, timeout_s: float = 30.0) -> None:
    """Return when CoreDNS knows the cluster's services; StartError if that does not happen in time."""
    url = f"http://{network.host_address}:{_READY_PORT}/ready"
    if not wait_until(lambda: _answers(url), timeout_s=timeout_s):
        raise StartError(f"cluster DNS does not become ready:\n{process.log_tail()}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _corefile(network: Network, kubeconfig: Path) -> str:
    """Names outside the cluster are refused: pods cannot reach what is there."""
    return f""".:53 {{
    bind {network.host_address}
    errors
    ready {network.host_address}:{_READY_PORT}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    cache 5
    loadbalance
}}
"""


def _dns_objects(network: Network) -> list[tuple[str, Object]]:
    rbac, system = "/apis/rbac.authorization.k8s.io/v1", "kube-system"
    ports = [
        {"name": name, "port": 53, "protocol": protocol} for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _DNS_USER}
    user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": _DNS_USER}
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    service = {"clusterIP": network.dns_address, "ports": [{**port, "targetPort": 53} for port in ports]}
    labels = {"k8s-app": "kube-dns", "kubernetes.io/service-name": "kube-dns"}
    slice_path = f"/apis/discovery.k8s.io/v1/namespaces/{system}/endpointslices/kube-dns"
    return [
        (f"{rbac}/clusterroles/{_DNS_USER}", _object(f"{rbac}/ClusterRole", _DNS_USER) | {"rules": rules}),
        (
            f"{rbac}/clusterrolebindings/{_DNS_USER}",
            _object(f"{rbac}/ClusterRoleBinding", _DNS_USER) | {"roleRef": role, "subjects": [user]},
        ),
        (f"/api/v1/namespaces/{system}/services/kube-dns", _object("/v1/Service", "kube-dns") | {"spec": service}),
        (
            slice_path,
            _object("/apis/discovery.k8s.io/v1/EndpointSlice", "kube-dns", labels)
            | {"addressType": "IPv4", "endpoints": [{"addresses": [network.host_address]}], "ports": ports},
        ),
    ]


def add_volumes(api: Api, folder: Path, count: int) -> None:
    """Make `count` more ReadWriteMany volumes of the storage class; every node sees the same files.

    They are folders of this machine that any user may write to. A volume whose claim was deleted keeps its data
    and is not given out again.
    """
    storage = _object("/apis/storage.k8s.io/v1/StorageClass", STORAGE_CLASS)
    provisioner = {"provisioner": "kubernetes.io/no-provisioner", "reclaimPolicy": "Retain"}
    api.apply(f"/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}", storage | provisioner)
    first = len(api.get("/api/v1/persistentvolumes")["items"])
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda number: _add_volume(api, folder, number), range(first, first + count)))


def _add_volume(api: Api, folder: Path, number: int) -> None:
    name = f"shared-{number:03d}"
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)
    spec = {
        "capacity": {"storage": _VOLUME_SIZE},
        "accessModes": ["ReadWriteMany", "ReadOnlyMany", "ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": STORAGE_CLASS,
        "hostPath": {"path": str(path), "type": "Directory"},
    }
    api.apply(f"/api/v1/persistentvolumes/{name}", _object("/v1/PersistentVolume", name) | {"spec": spec})


def advertise_emulated(api: Api, node: NodeSpec) -> None:
    """Put the node's emulated accelerators into its status, and how they behave into an annotation."""
    if not node.emulated:
        return
    path = f"/api/v1/nodes/{node.name}"
    amount = {EMULATED_RESOURCE: str(node.emulated)}
    api.patch(f"{path}/status", {"status": {"capacity": amount, "allocatable": amount}})
    device = {_camel(key): value for key, value in asdict(node.device).items()}
    api.patch(path, {"metadata": {"annotations": {EMULATED_ANNOTATION: json.dumps(device)}}})


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _object(kind: str, name: str, labels: dict[str, str] | None = None) -> Object:
    version, _, word = kind.removeprefix("/apis/").removeprefix("/").rpartition("/")
    return {"apiVersion": version, "kind": word, "metadata": {"name": name, "labels": labels or {}}}
