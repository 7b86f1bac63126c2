"""CPU time of a server's processes, by what they are."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import psutil

Part = Callable[[list[str]], str]
"""From a process's command line to what it is, e.g. sidecar."""


@dataclass(slots=True, kw_only=True)
class Usage:
    """Seconds of CPU by part over `seconds` of wall time."""

    seconds: float = 0.0
    by_part: dict[str, float] = field(default_factory=dict)

    def per_100_requests(self, requests: int, idle: Mapping[str, float]) -> dict[str, float]:
        """% of a core per 100 requests/s, that is CPU seconds per 100 requests x 100, without what the part uses when
        idle (`idle`: cores)."""
        spent = {part: cpu - idle.get(part, 0.0) * self.seconds for part, cpu in self.by_part.items()}
        return {part: 100 * 100 * cpu / max(1, requests) for part, cpu in spent.items()}

    def cores(self) -> dict[str, float]:
        """Mean number of cores in use."""
        return {part: cpu / self.seconds for part, cpu in self.by_part.items()}


@contextlib.contextmanager
def metered(leader: int, part: Part) -> Iterator[Usage]:
    """Fills the usage in when the block ends; processes that end within it are not counted."""
    usage = Usage()
    before, began = _now(leader, part), time.monotonic()
    yield usage
    after = _now(leader, part)
    usage.seconds = time.monotonic() - began
    for (pid, name), cpu in after.items():
        usage.by_part[name] = usage.by_part.get(name, 0.0) + cpu - before.get((pid, name), 0.0)


@dataclass(slots=True)
class Others:
    """Mean number of cores that neither the server nor the bench used (time that the host stole included)."""

    cores: float = 0.0


@contextlib.contextmanager
def others(leader: int) -> Iterator[Others]:
    """Fills in the load by others when the block ends."""
    found, before, began = Others(), _foreign(leader), time.monotonic()
    yield found
    found.cores = max(0.0, (_foreign(leader) - before) / (time.monotonic() - began))


def _foreign(leader: int) -> float:
    machine, bench = psutil.cpu_times(), os.times()
    busy = machine.user + machine.nice + machine.system + machine.irq + machine.softirq + machine.steal
    ours = bench.user + bench.system + bench.children_user + bench.children_system
    return float(busy - ours - sum(_now(leader, lambda _: "").values()))


def _now(leader: int, part: Part) -> dict[tuple[int, str], float]:
    found = {}
    process = psutil.Process(leader)
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            times = each.cpu_times()
            found[each.pid, part(each.cmdline())] = times.user + times.system
    return found
