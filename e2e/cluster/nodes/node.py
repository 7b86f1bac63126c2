"""A running node: containerd, kubelet and kube-proxy in namespaces of their own."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.build import components, oci
from e2e.cluster.machine import cgroups, processes
from e2e.cluster.machine.errors import StartError
from e2e.cluster.machine.network import Network, connect_node
from e2e.cluster.machine.processes import Process
from e2e.cluster.machine.waiting import wait_until
from e2e.cluster.nodes.files import CONTAINERD_SOCKET, NodeFiles, init_command
from e2e.cluster.spec import NodeSpec

_JOIN = 'for group in $1; do echo $$ > "$group/cgroup.procs"; done; shift; exec "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of a running cluster."""

    files: NodeFiles
    process: Process

    @property
    def name(self) -> str:
        """The node's name in Kubernetes."""
        return self.files.node.name

    @property
    def spec(self) -> NodeSpec:
        """What it was asked to be."""
        return self.files.node

    @property
    def address(self) -> str:
        """Its address on the bridge."""
        return self.files.address

    @property
    def cgroup(self) -> str:
        """The path of its cgroup below every controller's mount point."""
        return f"/{cgroups.root_name(self.files.network.cluster)}/{self.name}"

    @property
    def alive(self) -> bool:
        """Whether its first process runs."""
        return self.process.alive

    def run_in_node(self, name: str, argv: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Start a program in the node, as load beside its pods: it shares the node's CPU quota and its network.

        Its output goes to NAME.log among the node's logs. Ending it is the caller's, or `down`'s.
        """
        groups = " ".join(map(str, cgroups.node_paths(self.files.network.cluster, self.name, "outside")))
        log = self.files.folder / "logs" / f"{name}.log"
        with log.open("ab") as file:
            command = ["/bin/sh", "-c", _JOIN, "sh", groups, *self._enter("--net", "--mount", "--uts"), *argv]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)

    def ctr(self, *arguments: str, stdin: Path | None = None) -> str:
        """What containerd's `ctr` says in the namespace that kubelet uses."""
        command = [
            *self._enter("--mount"),
            str(components.program("ctr")),
            f"--address={CONTAINERD_SOCKET}",
            "-n=k8s.io",
        ]
        with open(stdin or os.devnull, "rb") as file:  # noqa: PTH123 (devnull is a string)
            finished = subprocess.run([*command, *arguments], stdin=file, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise StartError(f"node {self.name}: ctr {' '.join(arguments)}: {finished.stderr.strip()}")
        return finished.stdout

    def load_image(self, archive: Path) -> bool:
        """Import an OCI archive; False if the node has that very image already."""
        image = oci.image_of(archive)
        present = {line.split()[0]: line.split()[2] for line in self.ctr("images", "ls").splitlines()[1:]}
        if present.get(image.name) == image.digest:
            return False
        self.ctr("images", "import", "--local", "--discard-unpacked-layers", "-", stdin=archive)
        return True

    def _enter(self, *namespaces: str) -> list[str]:
        return ["nsenter", f"--target={self.process.pid}", *namespaces, "--"]


def launch(files: NodeFiles, specification: Path, *, folder: Path, nodes: int, system: Sequence[Path]) -> Node:
    """Start a node whose files are written; containerd answers when this returns."""
    cluster, node = files.network.cluster, files.node
    files.network_flag.unlink(missing_ok=True)
    cgroups.create_node(cluster, node.name, node.cpus)
    process = processes.spawn(f"node-{node.name}", init_command(specification), folder=folder, cgroups=system)
    if not wait_until(lambda: _has_own_network(process.pid), timeout_s=10, interval_s=0.01):
        raise StartError(f"node {node.name} got no namespaces:\n{process.log_tail()}")
    connect_node(files.network, files.index, process.pid, nodes)
    files.network_flag.touch()
    started = Node(files=files, process=process)
    if not wait_until(files.containerd_socket.exists, timeout_s=30):
        log = files.folder / "logs" / "containerd.log"
        raise StartError(f"containerd of node {node.name} does not start:\n{process.log_tail()}", remedy=f"see {log}")
    return started


def attach(network: Network, node: NodeSpec, index: int, folder: Path) -> Node | None:
    """A started node by its record in the cluster's folder, or None."""
    name = f"node-{node.name}"
    files = NodeFiles(node=node, index=index, network=network, folder=folder / "nodes" / node.name)
    found = (process for process in processes.recorded(folder) if process.name == name)
    return next((Node(files=files, process=process) for process in found), None)


def _has_own_network(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    except OSError:
        return False
