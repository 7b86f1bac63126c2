"""What is read from the runs of a job, and what is asked of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from e2e.bench.device import Device
from e2e.bench.report import Bar

DEVICE = Device(fixed_ms=1.0, per_row_ms=0.05, max_size=1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """One run over `items`. `seconds`: from when the models answered until the data set was whole; `cpu_s` by part,
    starts included; `mean_batch` rows (0: unknown); `memory_growth`: see Watched; `digest` of all records in order."""

    items: int
    seconds: float
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    mean_batch: float = 0.0
    memory_growth: float = 0.0
    digest: str = ""

    @property
    def idle(self) -> float:
        """Share of the time in which the device had nothing to do."""
        if not self.mean_batch:
            return 0.0
        busy_ms = self.items / self.mean_batch * DEVICE.fixed_ms + self.items * DEVICE.per_row_ms
        return 1.0 - busy_ms / 1e3 / self.seconds

    def cpu_us(self, start: JobRun, part: str = "runner") -> float:
        """CPU time of a part per item, less what it took for the items of the much smaller run `start`."""
        more = self.cpu_s.get(part, 0.0) - start.cpu_s.get(part, 0.0)
        return more / max(1, self.items - start.items) * 1e6


def bars(start: JobRun, runs: Mapping[str, JobRun]) -> list[Bar]:
    """What issue-sized jobs are held to, of the runs that there are."""
    found: list[Bar] = []
    one, three, small, script = (runs.get(name) for name in ("one", "three", "small-shards", "script"))
    if one is not None:
        found += [
            Bar(
                name="runner CPU, one model task", measured=one.cpu_us(start), wanted=30, at_least=False, unit="us/item"
            ),
            Bar(name="device idle", measured=100 * one.idle, wanted=10, at_least=False, unit="%"),
            Bar(name="growth of memory", measured=100 * one.memory_growth, wanted=10, at_least=False, unit="%"),
        ]
    if one is not None and three is not None:
        more = (three.cpu_us(start) - one.cpu_us(start)) / 2
        found.append(Bar(name="runner CPU, a further task", measured=more, wanted=15, at_least=False, unit="us/item"))
    if one is not None and small is not None:
        found.append(_ratio("shards of 1,000 beside one", small, one, 1.1))
    if one is not None and script is not None:
        found.append(_ratio("wall time beside the script's", one, script, 1.3))
    return found


def _ratio(name: str, this: JobRun, other: JobRun, most: float) -> Bar:
    return Bar(name=name, measured=this.seconds / other.seconds, wanted=most, at_least=False, unit="x")
