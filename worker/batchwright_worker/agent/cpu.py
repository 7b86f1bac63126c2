"""The CPU processor: busy share of what pods may use on this node, from its cgroups."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batchwright_worker.agent.cgroups import Accounts, accounts, node_root, pods_of
from batchwright_worker.agent.pods import pod_shares, pod_use
from batchwright_worker.agent.readings import DeviceReading, share
from batchwright_worker.api.names import KIND_CPU

SHORTEST_S: Final = 1.0
"""A busy share over less than this is mostly noise of the quota's periods; the last reading is reported again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCpu:
    """What is measured and what it is measured against."""

    counted: Accounts
    pods: Accounts | None = None
    """The cgroup of all pods; None: it is not there (yet)."""
    cores: float
    memory_bytes: int
    product: str = ""


def find_node(sysfs: Path, proc: Path, *, root: str | None, allocatable_cores: float | None) -> NodeCpu:
    """This node's accounts, from the agent's own place in them unless `root` names it. Raises CgroupError."""
    own = root if root is not None else node_root(_text(Path("/proc/self/cgroup")))
    whole = accounts(sysfs, own)
    pods = pods_of(whole)
    quota = whole.quota_cores()
    counted = whole if quota is not None or pods is None else pods
    total = _memory_total(proc)
    limits = [each.memory_limit_bytes() for each in (whole, pods) if each is not None]
    return NodeCpu(
        counted=counted,
        pods=pods,
        cores=quota or allocatable_cores or (pods.guaranteed_cores() if pods else None) or _host_cores(proc),
        memory_bytes=min([limit for limit in limits if limit is not None] + [total]),
        product=_product(proc),
    )


class CpuSource:
    """Implements Source. Holds the last reading and nothing else."""

    def __init__(self, node: NodeCpu, clock: Callable[[], float] = time.time) -> None:
        self._node, self._clock = node, clock
        self._used_s, self._at = node.counted.used_cpu_s(), clock()
        self._pods = pod_use(node.pods)
        self._last: DeviceReading | None = None

    def read(self) -> Sequence[DeviceReading]:
        """One device, `cpu`: its share since the reading before."""
        now = self._clock()
        if now - self._at < SHORTEST_S:
            return [self._last] if self._last else []
        try:
            used_s, memory = self._node.counted.used_cpu_s(), self._node.counted.used_memory_bytes()
        except (OSError, ValueError, KeyError):
            return []
        pods, could_use_s = pod_use(self._node.pods), (now - self._at) * self._node.cores
        self._last = DeviceReading(
            kind=KIND_CPU,
            device="cpu",
            utilization=share(used_s - self._used_s, could_use_s),
            memory_utilization=share(memory, self._node.memory_bytes),
            taken_at=now,
            pods=pod_shares(self._pods, pods, cpu_s=could_use_s, memory_bytes=self._node.memory_bytes),
            memory_bytes=self._node.memory_bytes,
            product=self._node.product,
        )
        self._used_s, self._at, self._pods = used_s, now, pods
        return [self._last]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _memory_total(proc: Path) -> int:
    fields = (line.split() for line in _text(proc / "meminfo").splitlines())
    return next((int(each[1]) << 10 for each in fields if each and each[0] == "MemTotal:"), 0)


def _host_cores(proc: Path) -> float:
    lines = _text(proc / "stat").splitlines()
    return float(sum(line.startswith("cpu") and line[3:4].isdigit() for line in lines)) or 1.0


def _product(proc: Path) -> str:
    lines = _text(proc / "cpuinfo").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
