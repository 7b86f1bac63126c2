"""Cgroups of a cluster, on version 1 (every controller a hierarchy of its own), version 2, or both at once.

batchwright-CLUSTER/system         etcd, API server, containerd, kubelets ...: membership only, no limits
batchwright-CLUSTER/NODE           the node: its CPU quota
batchwright-CLUSTER/NODE/kubepods  its pods, by kubelet
batchwright-CLUSTER/NODE/outside   what `run_in_node` starts: the node's own load beside its pods
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from e2e.cluster.machine.errors import RequirementError, StartError

_MOUNT = Path("/sys/fs/cgroup")
_PERIOD_US = 20_000  # five times as smooth as the kernel's default: a batch of 30 ms should not meet all or nothing

# A core of a node weighs as much as so many busy processes beside the cluster: a node is as fast as it says on a
# machine that does other things too. What the quotas leave of the machine is the control plane's.
_WEIGHT = 4


def unified() -> bool:
    """Whether this machine has cgroup version 2 alone."""
    return (_MOUNT / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """The mount points of all cgroup hierarchies."""
    if unified():
        return [_MOUNT]
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = {Path(fields[1]).resolve() for fields in mounts if fields[2] in ("cgroup", "cgroup2")}
    if not found:
        raise RequirementError("no cgroup hierarchy is mounted", remedy="use kind, or a machine with cgroups")
    return sorted(found)


def root_name(cluster: str) -> str:
    """The name of a cluster's cgroup in every hierarchy."""
    return f"batchwright-{cluster}"


def create_cluster(cluster: str, cpus: float) -> None:
    """Make the cluster's cgroup, which weighs as `cpus` cores should: see `_WEIGHT`."""
    for hierarchy in hierarchies():
        _weigh(_create(hierarchy, Path(root_name(cluster))), cpus)


def create_node(cluster: str, node: str, cpus: float) -> None:
    """Make a node's cgroup in every hierarchy, limited to `cpus` cores, and one beside its pods."""
    for hierarchy in hierarchies():
        for part in (Path(), Path(node), Path(node, "outside")):
            _create(hierarchy, Path(root_name(cluster)) / part)
    for folder in node_paths(cluster, node):
        _weigh(folder, cpus)
    limit_node(cluster, node, cpus)


def limit_node(cluster: str, node: str, cpus: float) -> None:
    """Set the quota of a node to `cpus` cores; it weighs as before."""
    quota = round(cpus * _PERIOD_US)
    for folder in node_paths(cluster, node):
        if (folder / "cpu.max").exists():
            (folder / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        elif (folder / "cpu.cfs_quota_us").exists():
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota))


def create_system(cluster: str) -> list[Path]:
    """Make the cgroup by which the cluster's own processes are known; the folders to join."""
    best = next((path for path in hierarchies() if path.name in ("unified", "pids", "freezer")), hierarchies()[0])
    best = _MOUNT / "unified" if (_MOUNT / "unified" / "cgroup.procs").exists() else best
    _create(best, Path(root_name(cluster)))
    return [_create(best, Path(root_name(cluster), "system"))]


def node_paths(cluster: str, node: str, leaf: str = "") -> list[Path]:
    """The folders of a node's cgroup (or of one below it), one per hierarchy."""
    return [hierarchy / root_name(cluster) / node / leaf for hierarchy in hierarchies()]


def members(cluster: str) -> set[int]:
    """The pids of all processes in the cluster's cgroups."""
    found: set[int] = set()
    for root in _roots(cluster):
        for folder in _folders(root):
            with contextlib.suppress(OSError):
                found.update(int(line) for line in (folder / "cgroup.procs").read_text().split() if int(line) > 0)
    return found


def remove(cluster: str, timeout_s: float = 20.0) -> None:
    """Kill every process in the cluster's cgroups and remove them; StartError if some process cannot be killed."""
    deadline = time.monotonic() + timeout_s
    while _roots(cluster):
        for root in _roots(cluster):
            _thaw(root)
        for pid in members(cluster):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for root in _roots(cluster):
            _remove_tree(root)
        if time.monotonic() > deadline:
            raise StartError(f"processes {sorted(members(cluster))} of cluster {cluster} do not end")
        time.sleep(0.02)


def leftover_clusters() -> set[str]:
    """The names of the clusters that have cgroups."""
    prefix = root_name("")
    return {path.name.removeprefix(prefix) for hierarchy in hierarchies() for path in hierarchy.glob(f"{prefix}*")}


def _roots(cluster: str) -> list[Path]:
    return [path for hierarchy in hierarchies() if (path := hierarchy / root_name(cluster)).is_dir()]


def _create(hierarchy: Path, path: Path) -> Path:
    folder = hierarchy / path
    folder.mkdir(parents=True, exist_ok=True)
    if unified():
        _delegate(folder.parent)
    for name in ("cpuset.mems", "cpuset.cpus"):
        file = folder / name
        if not unified() and file.exists() and not file.read_text().strip():
            file.write_text((folder.parent / name).read_text())
    return folder


def _delegate(folder: Path) -> None:
    """Version 2: let the children of `folder` have every controller that it has itself."""
    for controller in (folder / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _weigh(folder: Path, cpus: float) -> None:
    for name, usual in (("cpu.weight", 100), ("cpu.shares", 1024)):
        if (folder / name).exists():
            (folder / name).write_text(str(max(2, round(cpus * _WEIGHT * usual))))


def _thaw(root: Path) -> None:
    for folder in _folders(root):
        for name, thawed in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with contextlib.suppress(OSError):
                if (folder / name).exists():
                    (folder / name).write_text(thawed)


def _remove_tree(root: Path) -> None:
    for folder in _folders(root)[::-1]:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _folders(root: Path) -> list[Path]:
    """The cgroup with all below it, each before its own; those that end meanwhile, as pods do, may be missing."""
    return [Path(folder) for folder, _, _ in os.walk(root)]  # which passes over what it cannot list
