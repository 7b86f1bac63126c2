"""Taking a cluster away, whatever state it is in.

What belongs to a cluster is found by what cannot be lost: its name in cgroups and interfaces, and pids with start
times in its folder. A node's mounts, rules and pod interfaces live in namespaces that end with its processes.
"""

import contextlib
import subprocess
from pathlib import Path

from e2e.cluster.machine import cgroups, network, processes
from e2e.cluster.machine.errors import ClusterError
from e2e.cluster.machine.locking import alone
from e2e.cluster.machine.paths import state_folder


def remove_cluster(name: str) -> None:
    """Remove everything of the cluster `name`; what is not there is no error."""
    folder = state_folder() / name
    processes.stop([*processes.recorded(folder), *processes.recorded(folder / "control-plane")])
    cgroups.remove(name)
    network.remove(name)
    _forget_mounts(folder)
    subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False)  # images have many small files
    with alone("network"), contextlib.suppress(OSError):  # others live there, or are about to
        folder.parent.rmdir()
        folder.parent.parent.rmdir()
    if folder.exists():
        raise ClusterError(f"{folder} cannot be removed", remedy="look at what is mounted or running there")


def known_clusters() -> set[str]:
    """The names of all clusters that have left something on this machine."""
    state = state_folder()
    folders = {path.name for path in state.iterdir() if path.is_dir()} if state.is_dir() else set()
    return folders | cgroups.leftover_clusters() | network.leftover_clusters()


def _forget_mounts(folder: Path) -> None:
    """There should be none here: refuse to delete through one."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    stuck = [mount for mount in mounts if mount.startswith(f"{folder}/")]
    if stuck:
        raise ClusterError(f"still mounted: {', '.join(stuck)}", remedy=f"umount {' '.join(stuck)}")
