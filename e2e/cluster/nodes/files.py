"""The files that a node starts from: configurations, certificates, and what its first process shall run."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.build import components
from e2e.cluster.build.oci import PAUSE_IMAGE
from e2e.cluster.control_plane.certificates import KeyPair
from e2e.cluster.control_plane.kubeconfig import write_kubeconfig
from e2e.cluster.control_plane.server import ControlPlane
from e2e.cluster.machine import cgroups
from e2e.cluster.machine.network import Network
from e2e.cluster.machine.paths import write_private
from e2e.cluster.spec import NodeSpec

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
_PRIVATE_FOLDERS = ("/run", "/var/lib", "/var/log")

# What kubelet wants of the kernel. These are settings of the whole machine, so the node sees files that say so.
_KERNEL_TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFiles:
    """The files of node number `index` of a cluster, in `folder`."""

    node: NodeSpec
    index: int
    network: Network
    folder: Path

    @property
    def address(self) -> str:
        """The node's address."""
        return self.network.node_address(self.index)

    @property
    def network_flag(self) -> Path:
        """The file whose appearance tells the node's first process that its network is there."""
        return self.folder / "network-ready"

    @property
    def containerd_socket(self) -> Path:
        """Containerd's socket as the host sees it."""
        return self.folder / f"root{CONTAINERD_SOCKET}"

    def write(self, plane: ControlPlane) -> Path:
        """Write all of them; the path of the specification for `node_init`."""
        _write_kubeconfigs(self, plane)
        write_private(self.folder / "containerd.toml", _containerd(self))
        write_private(self.folder / "cni" / "10-batchwright.conflist", json.dumps(_cni(self)))
        write_private(self.folder / "kubelet.yaml", yaml.safe_dump(_kubelet(self)))
        write_private(self.folder / "kube-proxy.yaml", yaml.safe_dump(_kube_proxy(self)))
        return write_private(self.folder / "init.json", json.dumps(_init(self)))


def _write_kubeconfigs(files: NodeFiles, plane: ControlPlane) -> None:
    name = files.node.name
    user = f"system:node:{name}"
    pair = plane.authority.server(f"node-{name}", name, files.address, user=user, group="system:nodes")
    proxy = plane.authority.client(f"kube-proxy-{name}", "system:kube-proxy", "system:node-proxier")
    _write_kubeconfig(files, plane, "kubelet", pair)
    _write_kubeconfig(files, plane, "kube-proxy", proxy)
    write_private(files.folder / "pki" / "kubelet.crt", pair.certificate.read_bytes())
    write_private(files.folder / "pki" / "kubelet.key", pair.key.read_bytes())
    write_private(files.folder / "pki" / "ca.crt", plane.ca_path.read_bytes())


def _write_kubeconfig(files: NodeFiles, plane: ControlPlane, name: str, pair: KeyPair) -> None:
    path = files.folder / f"{name}.kubeconfig"
    write_kubeconfig(path, server_url=plane.server_url, ca=plane.ca_path, pair=pair)


def _containerd(files: NodeFiles) -> str:
    programs = components.program("containerd").parent
    return f"""
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "{_snapshotter(files.folder)}"
discard_unpacked_layers = true
pinned_images = {{ sandbox = "{PAUSE_IMAGE}" }}

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
cni = {{ bin_dirs = ["{programs}"], conf_dir = "{files.folder}/cni" }}

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
options = {{ BinaryName = "{programs}/runc", SystemdCgroup = false }}
"""


def _snapshotter(folder: Path) -> str:
    """Overlays cannot lie on overlays: in a container, snapshots are plain copies."""
    command = ["stat", "--file-system", "--format=%T", str(folder)]
    kind = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "native" if kind == "overlayfs" else "overlayfs"


def _cni(files: NodeFiles) -> dict[str, Any]:
    """Routed point-to-point links: with a bridge, answers of a pod behind a ClusterIP could bypass the node's NAT."""
    subnet = files.network.node_pod_cidr(files.index)
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables"}
    return {"cniVersion": "1.0.0", "name": "batchwright", "plugins": [{"type": "ptp", "ipam": ipam}, ports]}


def _kubelet(files: NodeFiles) -> dict[str, Any]:
    pki = files.folder / "pki"
    never = dict.fromkeys(("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available"), "0%")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": files.address,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroups.root_name(files.network.cluster)}/{files.node.name}",
        # Version 1 refuses a limit above the node's own quota, which Kubernetes allows: no pod limits there.
        "cpuCFSQuota": cgroups.unified(),
        "failCgroupV1": False,
        "failSwapOn": False,
        "systemReserved": reserved(files.node),
        "evictionHard": never,  # the host's disk and memory are not this cluster's to judge
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "8760h",
        "clusterDNS": [files.network.dns_address],
        "clusterDomain": "cluster.local",
        "resolvConf": os.devnull,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "volumeStatsAggPeriod": "-1s",
        "nodeStatusUpdateFrequency": "5s",
        "serializeImagePulls": False,
        "maxPods": 110,
    }


def reserved(node: NodeSpec) -> dict[str, str]:
    """What kubelet must set aside so that `node.cpus` and `node.memory_bytes` are left for pods."""
    cpus = os.cpu_count() or 1
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = {"cpu": max(0.0, cpus - node.cpus) * 1000, "memory": max(0, total - node.memory_bytes)}
    return {"cpu": f"{found['cpu']:.0f}m", "memory": str(found["memory"])}


def _kube_proxy(files: NodeFiles) -> dict[str, Any]:
    unlimited = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": files.node.name,
        "clientConnection": {"kubeconfig": f"{files.folder}/kube-proxy.kubeconfig"},
        "clusterCIDR": files.network.pod_cidr,
        "detectLocalMode": "ClusterCIDR",
        "conntrack": unlimited,
        "nftables": {"minSyncPeriod": "100ms"},
    }


def _init(files: NodeFiles) -> dict[str, Any]:
    folder = files.folder
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    programs = components.program("containerd").parent
    return {
        "hostname": files.node.name,
        "network": str(files.network_flag),
        "logs": f"{folder}/logs",
        "path": f"{programs}:{os.environ.get('PATH', os.defpath)}",
        "binds": {**_folders(folder), **_tunables(folder)},
        "programs": _programs(files),
    }


def _folders(folder: Path) -> dict[str, str]:
    binds = {target: folder / f"root{target}" for target in _PRIVATE_FOLDERS}
    for source in binds.values():
        source.mkdir(parents=True, exist_ok=True)
    return {target: str(source) for target, source in binds.items()}


def _tunables(folder: Path) -> dict[str, str]:
    binds = {}
    for name, value in _KERNEL_TUNABLES.items():
        if Path("/proc/sys", name).exists():
            source = write_private(folder / "kernel" / name.replace("/", "-"), f"{value}\n")
            binds[f"/proc/sys/{name}"] = str(source)
    return binds


def _programs(files: NodeFiles) -> list[dict[str, Any]]:
    folder = files.folder
    labels = ",".join(f"{key}={value}" for key, value in files.node.labels.items())
    kubelet = [
        components.program("kubelet"),
        f"--config={folder}/kubelet.yaml",
        f"--kubeconfig={folder}/kubelet.kubeconfig",
        f"--node-ip={files.address}",
        f"--hostname-override={files.node.name}",
        f"--node-labels={labels}",
    ]
    proxy = [components.program("kube-proxy"), f"--config={folder}/kube-proxy.yaml"]
    runtime = [components.program("containerd"), f"--config={folder}/containerd.toml"]
    return [
        {"name": "containerd", "argv": list(map(str, runtime))},
        {"name": "kubelet", "argv": list(map(str, kubelet)), "after": CONTAINERD_SOCKET},
        {"name": "kube-proxy", "argv": list(map(str, proxy))},
    ]


def init_command(specification: Path) -> list[str]:
    """The command that makes the node's namespaces and runs its first process in them."""
    unshare = ["/usr/bin/env", "unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child=SIGKILL"]
    script = str(Path(__file__).with_name("init.py"))
    interpreter = os.path.realpath(sys.executable)
    return [*unshare, "--mount-proc", "--propagation", "private", interpreter, "-I", "-S", script, str(specification)]
