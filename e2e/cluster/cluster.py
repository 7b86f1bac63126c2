"""A cluster of real nodes on this machine: start it, attach to it, take it down."""

import contextlib
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from e2e.cluster import addons, kwok, teardown
from e2e.cluster.build import components, oci
from e2e.cluster.control_plane.api import Api
from e2e.cluster.control_plane.flags import ControlPlaneSpec
from e2e.cluster.control_plane.server import ControlPlane
from e2e.cluster.machine import cgroups, network, preflight
from e2e.cluster.machine.errors import ClusterError, NotFoundError, StartError
from e2e.cluster.machine.locking import alone
from e2e.cluster.machine.network import Network
from e2e.cluster.machine.paths import cache_folder, state_folder, write_private
from e2e.cluster.machine.progress import say, step
from e2e.cluster.machine.waiting import wait_until
from e2e.cluster.nodes import node as nodes
from e2e.cluster.nodes.files import NodeFiles
from e2e.cluster.nodes.node import Node
from e2e.cluster.spec import ClusterSpec, NodeSpec

_RECORD = "cluster.json"
_LONGEST_FOLDER = 85  # a unix socket's path has at most 107 characters
_NODE_READY_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    spec: ClusterSpec
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running cluster. A context manager: leaving it takes the cluster down."""

    spec: ClusterSpec
    folder: Path
    network: Network
    control_plane: ControlPlane
    nodes: dict[str, Node]

    @classmethod
    def up(cls, spec: ClusterSpec) -> Self:
        """Start the cluster, or attach to it if it runs as specified; one that half runs is started anew.

        Nodes are Ready, and cluster DNS answers, when this returns.
        """
        needed = ["kubernetes", "containerd", "coredns", *(["kwok"] if spec.kwok_nodes else [])]
        preflight.require_nodes(compiling=not components.CATALOGUE["containerd"].built)
        components.ensure_built(needed)
        with alone(f"cluster-{spec.name}", waiting=f"another process is starting cluster {spec.name}; waiting for it"):
            return cls._find_or_start(spec)

    @classmethod
    def _find_or_start(cls, spec: ClusterSpec) -> Self:
        with contextlib.suppress(NotFoundError):
            cluster = cls.attach(spec.name)
            if cluster.alive:
                _require_same(cluster.spec, spec)
                return cluster
        if spec.name in teardown.known_clusters():
            say(f"cluster {spec.name} is broken: clearing it away and starting it anew")
            teardown.remove_cluster(spec.name)
        try:
            return cls._start(spec)
        except BaseException:
            say(f"cluster {spec.name} did not start; its logs are kept in {_keep_logs(spec.name)}")
            teardown.remove_cluster(spec.name)
            raise

    @classmethod
    def attach(cls, name: str) -> Self:
        """The cluster of that name, which another process may have started; NotFoundError if there is none."""
        folder = state_folder() / name
        try:
            record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=_Record)
            plane = ControlPlane.attach(folder / "control-plane")
        except (OSError, msgspec.MsgspecError, NotFoundError) as error:
            raise NotFoundError(f"no cluster {name!r}", remedy="see: python -m e2e.cluster status") from error
        net = Network(cluster=name, block=record.block)
        found = [nodes.attach(net, node, index, folder) for index, node in enumerate(record.spec.nodes)]
        members = {node.name: node for node in found if node}
        return cls(spec=record.spec, folder=folder, network=net, control_plane=plane, nodes=members)

    @classmethod
    def _start(cls, spec: ClusterSpec) -> Self:
        folder = state_folder() / spec.name
        if len(str(folder)) > _LONGEST_FOLDER:
            raise ClusterError(f"{folder} is too long a path for sockets", remedy="set XDG_STATE_HOME to a shorter one")
        oci.pause_archive()
        with step(f"cluster {spec.name}: control plane"):
            net = _claim_network(spec, folder)
            cgroups.create_cluster(spec.name, sum(node.cpus for node in spec.nodes))
            system = cgroups.create_system(spec.name)
            plane = ControlPlane.launch(_plane_spec(spec, net, system), folder / "control-plane")
        with step(f"cluster {spec.name}: nodes {', '.join(node.name for node in spec.nodes)}"):
            members = _start_nodes(spec, net, plane, system)
            cluster = cls(spec=spec, folder=folder, network=net, control_plane=plane, nodes=members)
            _furnish(cluster)
        if spec.kwok_nodes:
            with step(f"cluster {spec.name}: {spec.kwok_nodes} simulated nodes"):
                kwok.start(plane, folder)
                kwok.add_nodes(plane.api, spec.kwok_nodes)
        return cluster

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig of the administrator."""
        return self.control_plane.kubeconfig

    @property
    def alive(self) -> bool:
        """Whether all its processes run and the API server is ready."""
        complete = len(self.nodes) == len(self.spec.nodes) and all(node.alive for node in self.nodes.values())
        return complete and self.control_plane.alive and self.control_plane.api.ready()

    def load_image(self, *archives: Path, only: Sequence[str] = ()) -> None:
        """Import OCI archives into every node (or only those named) that has not got them, all at once."""
        unknown = set(only) - set(self.nodes)
        if unknown:
            raise NotFoundError(f"no node {', '.join(sorted(unknown))}", remedy=f"there are {', '.join(self.nodes)}")
        chosen = [node for name, node in self.nodes.items() if not only or name in only]
        pairs = [(node, archive) for archive in archives for node in chosen]
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(lambda pair: pair[0].load_image(pair[1]), pairs))

    def add_volumes(self, count: int) -> None:
        """Make `count` more shared volumes."""
        addons.add_volumes(self.control_plane.api, self.folder / "volumes", count)

    def down(self) -> None:
        """Take the cluster away; nothing of it is left on the machine."""
        teardown.remove_cluster(self.spec.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def _require_same(running: ClusterSpec, wanted: ClusterSpec) -> None:
    if running != wanted:
        remedy = f"take it down first: python -m e2e.cluster down --name {wanted.name}"
        raise ClusterError(f"cluster {wanted.name} is up, but otherwise: {running}", remedy=remedy)
    say(f"cluster {wanted.name} is already up")


def _plane_spec(spec: ClusterSpec, net: Network, system: Sequence[Path]) -> ControlPlaneSpec:
    return ControlPlaneSpec(
        name=spec.name,
        address=net.host_address,
        service_cidr=net.service_cidr,
        audit_log=spec.audit_log,
        cgroups=tuple(map(str, system)),
        controller_manager_args=kwok.CONTROLLER_MANAGER_ARGS if spec.kwok_nodes else (),
    )


def _claim_network(spec: ClusterSpec, folder: Path) -> Network:
    """Choose a network and make its bridge, one cluster at a time."""
    with alone("network"):
        folder.mkdir(parents=True)
        net = network.choose(spec.name)
        write_private(folder / _RECORD, msgspec.json.encode(_Record(spec=spec, block=net.block)))
        network.create_bridge(net)
    return net


def _start_nodes(spec: ClusterSpec, net: Network, plane: ControlPlane, system: Sequence[Path]) -> dict[str, Node]:
    def start(index: int, node: NodeSpec) -> Node:
        home = state_folder() / spec.name
        files = NodeFiles(node=node, index=index, network=net, folder=home / "nodes" / node.name)
        started = nodes.launch(files, files.write(plane), folder=home, nodes=len(spec.nodes), system=system)
        started.load_image(oci.pause_archive())
        return started

    with ThreadPoolExecutor(max_workers=8) as pool:
        found = list(pool.map(start, range(len(spec.nodes)), spec.nodes))
    network.add_host_routes(net, len(found))
    return {node.name: node for node in found}


def _furnish(cluster: Cluster) -> None:
    api = cluster.control_plane.api
    dns = addons.start_dns(cluster.control_plane, cluster.network, cluster.folder)
    cluster.add_volumes(cluster.spec.volumes)
    for node in cluster.nodes.values():
        _await_ready(api, node)
        addons.advertise_emulated(api, node.spec)
    addons.await_dns(cluster.network, dns)


def _await_ready(api: Api, node: Node) -> None:
    path = f"/api/v1/nodes/{node.name}"

    def ready() -> bool:
        return api.exists(path) and kwok.is_ready(api.get(path))

    if not wait_until(ready, timeout_s=_NODE_READY_TIMEOUT_S):
        raise StartError(f"node {node.name} does not become Ready", remedy=f"see {node.files.folder}/logs/kubelet.log")


def _keep_logs(name: str) -> Path:
    """Copy the logs of a cluster that did not start to where `down` does not look."""
    target = cache_folder() / "failed" / name
    shutil.rmtree(target, ignore_errors=True)
    folder = state_folder() / name
    for log in folder.rglob("logs/*.log"):
        copy = target / log.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, copy)
    return target
