"""What a cluster could leave behind on the machine, by name."""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from e2e.cluster.machine import cgroups, network


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


@contextlib.contextmanager
def held_namespaces(pids: set[int]) -> Iterator[set[str]]:
    """The network, mount and process namespaces of these processes, this process's own aside.

    They are held open meanwhile: the kernel gives the number of a namespace that ended to the next one.
    """
    own = set(_namespaces(os.getpid()))
    with contextlib.ExitStack() as stack:
        held: set[str] = set()
        for path, name in ((path, name) for pid in pids for name, path in _namespaces(pid).items()):
            with contextlib.suppress(OSError):
                if name not in own | held:
                    stack.enter_context(path.open())
                    held.add(name)
        yield held


def inhabited_namespaces() -> set[str]:
    """The namespaces that processes of this machine live in; a zombie lives no more, whenever init reaps it."""
    pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return {name for pid in pids if not _zombie(pid) for name in _namespaces(pid)}


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


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _namespaces(pid: int) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for kind in ("net", "mnt", "pid"):
        with contextlib.suppress(OSError):
            path = Path(f"/proc/{pid}/ns/{kind}")
            found[str(path.readlink())] = path
    return found


def _output(*command: str) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
