"""A cluster's network: one bridge on the host, one interface per node, routed pod networks, no overlay.

    10.K.0.1        the host, on the bridge: API server and cluster DNS listen here
    10.K.0.(11+i)   node i
    10.K.(64+i).0/24  its pods
    10.K.128.0/20   ClusterIPs, by way of the first node

K is the first number from 100 on that nothing on this machine uses. Nothing of the host's own settings is changed:
packets between nodes cross the bridge and are never forwarded by the host, so pods reach each other and the host,
but nothing beyond it.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from e2e.cluster.machine import tools
from e2e.cluster.machine.errors import ClusterError, StartError

_FIRST, _LAST = 100, 250
_ALIAS = "batchwright:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The addresses and interface names of one cluster; `block` is its K."""

    cluster: str
    block: int

    @property
    def bridge(self) -> str:
        """The bridge's name: short, since an interface's name has at most 15 characters."""
        return bridge_name(self.cluster)

    @property
    def host_address(self) -> str:
        """The host's address on the bridge."""
        return f"10.{self.block}.0.1"

    @property
    def pod_cidr(self) -> str:
        """Where all pods' addresses lie."""
        return f"10.{self.block}.64.0/18"

    @property
    def service_cidr(self) -> str:
        """Where ClusterIPs lie."""
        return f"10.{self.block}.128.0/20"

    @property
    def dns_address(self) -> str:
        """The ClusterIP of cluster DNS."""
        return f"10.{self.block}.128.10"

    def node_address(self, index: int) -> str:
        """The address of node number `index`."""
        return f"10.{self.block}.0.{11 + index}"

    def node_pod_cidr(self, index: int) -> str:
        """Where the addresses of that node's pods lie."""
        return f"10.{self.block}.{64 + index}.0/24"


def bridge_name(cluster: str) -> str:
    """The name of a cluster's bridge, which only depends on the cluster's name."""
    return f"bw{hashlib.sha256(cluster.encode()).hexdigest()[:6]}"


def choose(cluster: str, taken: Iterable[int] = ()) -> Network:
    """A network for a cluster, in a block that neither the machine nor the clusters of blocks `taken` use."""
    used = _routed_networks()
    for block in range(_FIRST, _LAST):
        whole = IPv4Network(f"10.{block}.0.0/16")
        if block not in taken and not any(whole.overlaps(network) for network in used):
            return Network(cluster=cluster, block=block)
    raise ClusterError("no free 10.x.0.0/16 network", remedy="take a cluster down: python -m e2e.cluster down --all")


def create_bridge(network: Network) -> None:
    """Make the bridge with the host's address on it."""
    bridge = network.bridge
    _ip(
        f"link add {bridge} type bridge",
        f"link set {bridge} alias {_ALIAS}{network.cluster}",
        f"address add {network.host_address}/24 dev {bridge}",
        f"link set {bridge} up",
    )


def connect_node(network: Network, index: int, pid: int, nodes: int) -> None:
    """Give node number `index` of `nodes`, whose network namespace process `pid` is in, its interface and routes."""
    interface = f"{network.bridge}n{index}"
    _ip(
        f"link add {interface} type veth peer name eth0 netns {pid}",
        f"link set {interface} master {network.bridge} up",
    )
    others = (other for other in range(nodes) if other != index)
    inside = [
        f"address add {network.node_address(index)}/24 dev eth0",
        "link set lo up",
        "link set eth0 up",
        f"route add default via {network.host_address}",
        *(f"route add {network.node_pod_cidr(other)} via {network.node_address(other)}" for other in others),
    ]
    _ip(*inside, prefix=("nsenter", f"--net=/proc/{pid}/ns/net"))


def add_host_routes(network: Network, nodes: int) -> None:
    """Let the host reach pods and ClusterIPs."""
    routes = [f"route add {network.node_pod_cidr(index)} via {network.node_address(index)}" for index in range(nodes)]
    _ip(*routes, f"route add {network.service_cidr} via {network.node_address(0)}")


def remove(cluster: str) -> None:
    """Remove the cluster's interfaces, and with them the host's routes; what is not there is no error."""
    bridge = bridge_name(cluster)
    for name in sorted(name for name in interface_names() if name.startswith(bridge)):
        subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)


def leftover_clusters() -> set[str]:
    """The names of the clusters that have a bridge."""
    aliases = (entry.get("ifalias", "") for entry in _query("link"))
    return {alias.removeprefix(_ALIAS) for alias in aliases if alias.startswith(_ALIAS)}


def interface_names() -> set[str]:
    """The names of the host's interfaces."""
    return {entry["ifname"] for entry in _query("link")}


def _routed_networks() -> list[IPv4Network]:
    routes = [entry.get("dst", "") for entry in _query("-4", "route", "show", "table", "all")]
    return [IPv4Network(route, strict=False) for route in routes if route[:1].isdigit()]


def _query(*arguments: str) -> list[dict[str, str]]:
    answer = subprocess.run(
        [str(tools.find("ip")), "-json", *arguments], check=True, capture_output=True, text=True
    ).stdout
    found: list[dict[str, str]] = json.loads(answer or "[]")
    return found


def _ip(*commands: str, prefix: Sequence[str] = ()) -> None:
    script = "\n".join(commands)
    finished = subprocess.run([*prefix, "ip", "-batch", "-"], input=script, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise StartError(f"cannot set up the network: {finished.stderr.strip()}\n{script}")
