"""What a cluster could leave behind on the machine, by name."""

import re
import subprocess
from pathlib import Path

from . import cgroups, network


def machine() -> set[str]:
    """Interfaces, routes, mounts, cgroups, tables of rules and kernel settings of the host, one line each.

    What belongs to other clusters, which other sessions may start meanwhile, is left out by `difference`.
    """
    lines = [f"interface {name}" for name in network.interface_names()]
    lines += [f"route {route}" for route in _output("ip", "route", "show", "table", "all")]
    lines += [f"rules {table}" for table in _output("nft", "list", "tables")]
    lines += [f"mount {mount}" for mount in Path("/proc/self/mounts").read_text().splitlines()]
    for hierarchy in cgroups.hierarchies():
        lines += [f"cgroup {path}" for path in hierarchy.glob("batchwright-*")]
    for name in ("net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"):
        lines.append(f"setting {name}={Path('/proc/sys', name).read_text().strip()}")
    for folder in ("/run/netns", "/run/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/etc/cni"):
        lines += [f"folder {folder}"] * Path(folder).exists()
    return set(lines)


def difference(before: set[str], after: set[str], cluster: str) -> set[str]:
    """What differs, other clusters' bridges and cgroups aside."""
    own = network.bridge_name(cluster)
    foreign = re.compile(rf"\bbw(?!{own[2:]})[0-9a-f]{{6}}|batchwright-(?!{cluster}$)|10\.\d+\.(0|64|128)\.0")
    return {line for line in before ^ after if own in line or not foreign.search(line)}


def namespaces(pids: set[int]) -> set[str]:
    """The network, mount and process namespaces that these processes live in."""
    return {link for pid in pids for link in _links(pid)}


def living_namespaces() -> set[str]:
    """The namespaces of all processes on the machine."""
    return namespaces({int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()})


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that name a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


def _links(pid: int) -> set[str]:
    try:
        return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("net", "mnt", "pid")}
    except OSError:
        return set()


def _output(*command: str) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
