"""Where a node's CPU and memory are accounted for in its cgroups, version 1 or 2.

The node's root cgroup is the one that holds `kubepods`. Where the root has a CPU quota (a node that is a part of a
machine), everything in it counts, over that quota. Else the pods' cgroup counts, over the node's allocatable cores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_UNLIMITED: Final = 1 << 60
"""Version 1 writes a page-aligned maximum for `no limit`."""

_POD: Final = re.compile(r"(?:^|-)pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$")
"""A pod's cgroup by its uid, whose dashes systemd's names replace. A static pod has a digest for a uid."""


class CgroupError(Exception):
    """The cgroups cannot be read; the message says which path and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """Files of one cgroup: the folder per controller (the same one for version 2)."""

    cpu: Path
    """Quota."""
    usage: Path
    """Used time."""
    memory: Path
    unified: bool

    def below(self, path: str) -> Accounts:
        """Those of a cgroup in it."""
        return Accounts(cpu=self.cpu / path, usage=self.usage / path, memory=self.memory / path, unified=self.unified)

    def used_cpu_s(self) -> float:
        """CPU seconds that were used in it so far. Raises OSError, ValueError."""
        if not self.unified:
            return int((self.usage / "cpuacct.usage").read_text()) / 1e9
        return _stat(self.usage / "cpu.stat")["usage_usec"] / 1e6

    def quota_cores(self) -> float | None:
        """Cores that it may use; None: no quota."""
        try:
            if self.unified:
                quota, period = (self.cpu / "cpu.max").read_text().split()
            else:
                quota = (self.cpu / "cpu.cfs_quota_us").read_text().strip()
                period = (self.cpu / "cpu.cfs_period_us").read_text()
            return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
        except (OSError, ValueError):
            return None

    def guaranteed_cores(self) -> float | None:
        """What kubelet set on the pods' cgroup for allocatable CPU (version 1 only: 1024 shares are a core)."""
        try:
            return None if self.unified else int((self.cpu / "cpu.shares").read_text()) / 1024
        except (OSError, ValueError):
            return None

    def used_memory_bytes(self) -> int:
        """Memory in use without page cache that can go. Raises OSError, ValueError, KeyError."""
        stat = _stat(self.memory / "memory.stat")
        name, cache = ("memory.current", "inactive_file") if self.unified else (
            "memory.usage_in_bytes", "total_inactive_file")  # fmt: skip
        return max(0, int((self.memory / name).read_text()) - stat.get(cache, 0))

    def memory_limit_bytes(self) -> int | None:
        """None: no limit."""
        name = "memory.max" if self.unified else "memory.limit_in_bytes"
        try:
            text = (self.memory / name).read_text().strip()
            return None if text == "max" or int(text) >= _UNLIMITED else int(text)
        except (OSError, ValueError):
            return None


def node_root(cgroups: str) -> str:
    """The node's root cgroup, from the text of /proc/self/cgroup: what comes before `kubepods`, `/` without it."""
    paths = [line.split(":", 2)[2].strip() for line in cgroups.splitlines() if line.count(":") >= 2]
    for path in paths:
        parts = path.split("/")
        pods = next((at for at, part in enumerate(parts) if _holds_pods(part)), None)
        if pods is not None:
            return "/".join(parts[:pods]) or "/"
    return "/"


def accounts(sysfs: Path, root: str) -> Accounts:
    """The accounts of a cgroup below the mounts at `sysfs`. Raises CgroupError."""
    below = root.strip("/")
    if (sysfs / "cgroup.controllers").exists():
        folder = sysfs / below
        found = Accounts(cpu=folder, usage=folder, memory=folder, unified=True)
    else:
        cpu, usage, memory = (_controller(sysfs, name) / below for name in ("cpu", "cpuacct", "memory"))
        found = Accounts(cpu=cpu, usage=usage, memory=memory, unified=False)
    if not found.usage.is_dir():
        raise CgroupError(
            f"there is no cgroup {root} at {found.usage}; name the node's cgroup with --cgroup-root, "
            "and where the host's /sys/fs/cgroup is mounted with --sysfs"
        )
    return found


def pods_of(root: Accounts) -> Accounts | None:
    """The cgroup of all pods, at most two levels below (kubelet may have a slice of its own)."""
    for level in ("*", "*/*"):
        for folder in sorted(root.usage.glob(level)):
            if _holds_pods(folder.name) and folder.is_dir():
                return root.below(str(folder.relative_to(root.usage)))
    return None


def each_pod(pods: Accounts) -> Iterator[tuple[str, Accounts]]:
    """(uid, its cgroup) of every pod below the cgroup of all pods: guaranteed ones in it, others by class."""
    for level in ("*", "*/*"):
        for folder in pods.usage.glob(level):
            if (found := _POD.search(folder.name)) is not None:
                yield found.group(1).replace("_", "-"), pods.below(str(folder.relative_to(pods.usage)))


def _holds_pods(name: str) -> bool:
    """`kubepods`, or with systemd `kubepods.slice`, prefixed by its parents' names."""
    return name == "kubepods" or name.endswith("kubepods.slice")


def _controller(sysfs: Path, name: str) -> Path:
    """Version 1 mounts controllers together, e.g. `cpu,cpuacct`."""
    try:
        folders = sorted(each for each in sysfs.iterdir() if name in each.name.split(","))
    except OSError as error:
        raise CgroupError(
            f"{sysfs} cannot be read ({error}); mount the host's /sys/fs/cgroup there, read-only"
        ) from error
    if not folders:
        raise CgroupError(f"there is no cgroup controller {name} at {sysfs}; mount the host's /sys/fs/cgroup there")
    return folders[0]


def _stat(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
