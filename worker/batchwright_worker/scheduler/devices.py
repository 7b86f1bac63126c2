"""Which models are in which device's memory, and what each device is doing: the books behind dispatch. Pure.

Memory is measured by the runtimes; between two measurements the books follow the loads and unloads decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from batchwright_worker.inference.runtime import LoadReport, MemoryReport
from batchwright_worker.scheduler.dispatch import UNBOUNDED, Device, Resident

Work = Literal["Idle", "Running", "Loading", "Down"]
Eviction = Literal["LeastWorth", "LeastRecentlyUsed"]
"""Which idle model makes room: the one worth least (`keep_value`, the default), or what everyone does first (kept to
compare with)."""
SHORT_S = 0.002
"""Behind a batch predicted to take less device time than this the next one follows at once: the way to the runtime and
back takes longer than what waiting could gather. It has half the rows at least, so that two of a size take turns; else
few rows at a time would chase each other."""
LEAD_SHARE = 0.2
"""Any batch may follow shortly before the running one ends: at most this share of its device time, ..."""
MOST_LEAD_S = 0.004
DECIDING_S = 0.0025
"""... as long as the way to the runtime and back takes, and what a timer may be late by and the decision takes (a
millisecond with fifty queues and cold caches: it must not meet the end of the batch on the same processor)."""
ROUND_TRIP_WEIGHT = 0.1


@dataclass(slots=True, kw_only=True)
class Footprint:
    """What is known of a model's memory and load time: estimates until a load or a batch has measured them."""

    load_bytes: int = 0
    bytes_per_row: int = 0
    load_s: float = 0.0
    measured: bool = False

    def loaded(self, report: LoadReport) -> None:
        """A load has measured it."""
        if report.memory_bytes > 0:
            self.load_bytes = report.memory_bytes
        self.bytes_per_row = max(self.bytes_per_row, report.bytes_per_row)
        self.load_s = report.seconds if not self.measured else 0.5 * (self.load_s + report.seconds)
        self.measured = True

    def ran(self, rows: int, batch_bytes: int) -> None:
        """A batch has measured the slope per row: the largest counts, a batch that fails costs more than a row less."""
        if batch_bytes > 0 and rows > 0:
            self.bytes_per_row = max(self.bytes_per_row, -(-batch_bytes // rows))


@dataclass(slots=True, kw_only=True)
class ResidentModel:
    """A model in a device's memory; `served` once a batch of it has started since the load. `retained_bytes`: what its
    allocator keeps of past batches; that comes on top, and is free for its own next batch only."""

    memory_bytes: int
    retained_bytes: int = 0
    served: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A batch of `rows` that the device has been given: `serial` is its number, `device_s` its predicted device time.
    `apart`: it may be what kills the runtime, so nothing else is in flight beside it. `began`: when it was given."""

    serial: int
    model: str
    device_s: float
    apart: bool = False
    began: float = 0.0
    rows: int = 0


@dataclass(slots=True, kw_only=True)
class DeviceBooks:
    """One device. `depth`: how many batches it may be given at a time; it runs them one after the other, or side by
    side if it `interleaves` (then at most one per model). `until`: when all its work is predicted to end; `began`: when
    what it works on began; `loading`: the model on its way in; `epoch` grows when its runtime is lost (what was begun
    before ends in no books)."""

    name: str
    kind: str
    overlaps_loads: bool = False
    total_bytes: int = 0
    used_bytes: int = 0
    free_bytes: int = UNBOUNDED
    depth: int = 1
    interleaves: bool = False
    in_flight: list[Flight] = field(default_factory=list)
    loading: str = ""
    expects: str = ""
    """The model on its way in, as `loading`, but not the one on its way out."""
    load_s: float = 0.0
    """What that is predicted to take, from when the device can begin it."""
    down: bool = False
    epoch: int = 0
    until: float = 0.0
    began: float = 0.0
    busy_s: float = 0.0
    round_trip_s: float = 0.0
    """Smoothed time that a batch given to the idle device takes beyond its device time."""
    held: dict[str, ResidentModel] = field(default_factory=dict)
    caps: dict[str, int] = field(default_factory=dict)
    barred: set[str] = field(default_factory=set)
    """Models whose load has failed here; not tried again until they are let in."""
    troubled: set[str] = field(default_factory=set)
    """Models whose last batch has failed or is run again in parts: they are not unloaded behind a batch before one has
    ended well, so that bad rows can be found."""
    claims: int = 0
    """How many loads and unloads that no rows wait for want it next: until they begin, nothing else does."""

    @property
    def running(self) -> str:
        """The model of the batch that runs, empty if none does."""
        return self.in_flight[0].model if self.in_flight else ""

    @property
    def work(self) -> Work:
        if self.down:
            return "Down"
        if self.running:
            return "Running"
        return "Loading" if self.loading else "Idle"

    @property
    def idle(self) -> bool:
        """Can it start a batch? A load that overlaps leaves it free for one."""
        if self.claims:
            return False
        if self.in_flight and not (self.interleaves and len(self.in_flight) < self.depth):
            return False
        return not self.down and (not self.loading or self.overlaps_loads)

    @property
    def followable(self) -> bool:
        """Does a batch run (or a load, where it blocks the device), with room for a batch behind it?"""
        if self.claims or self.interleaves or self.down or len(self.in_flight) >= self.depth:
            return False
        if self.loading and not self.overlaps_loads:
            has_time = self.until - self.began > 2 * MOST_LEAD_S
            return self.depth > 1 and self.expects != "" and has_time and not self.in_flight
        return bool(self.in_flight) and not any(flight.apart for flight in self.in_flight)

    @property
    def follow_at(self) -> float:
        """From when on any batch may be put behind what runs, so that the device never waits for it."""
        device_s = sum(flight.device_s for flight in self.in_flight) if self.in_flight else self.until - self.began
        if device_s < SHORT_S:
            return self.began
        return self.until - min(self.round_trip_s + DECIDING_S, LEAD_SHARE * device_s, MOST_LEAD_S)

    @property
    def least_behind(self) -> int:
        """The rows that a batch needs to be put behind what runs, unless it is full."""
        last = self.in_flight[-1] if self.in_flight else None
        return (last.rows + 1) // 2 if last is not None and last.device_s < SHORT_S else 1

    @property
    def loadable(self) -> bool:
        """Can it start a load?"""
        return not self.claims and self.can_load

    @property
    def can_load(self) -> bool:
        """The same for one that has claimed it."""
        return not self.down and not self.loading and (not self.in_flight or self.overlaps_loads)

    @property
    def quiet(self) -> bool:
        """Is it up and does nothing at all?"""
        return not self.down and not self.in_flight and not self.loading

    @property
    def leavable(self) -> frozenset[str]:
        """Models in flight that an unload put behind them finds at rest: the device works in the order of the asks."""
        if self.overlaps_loads or self.interleaves:
            return frozenset()
        return frozenset(flight.model for flight in self.in_flight if not flight.apart) - self.troubled

    def can_load_behind(self, now: float) -> bool:
        """Does a batch run that is about to end, so that a load may be put behind it?"""
        return self.followable and not self.loading and now >= self.follow_at

    def free_at(self, now: float) -> float:
        """When it can start one more batch, as predicted."""
        return now if self.idle else max(now, self.until)

    def measured(self, report: MemoryReport) -> None:
        """The runtime has told its memory."""
        self.total_bytes = report.total_bytes
        self.used_bytes = report.used_bytes
        self.free_bytes = report.free_bytes if report.total_bytes > 0 else UNBOUNDED

    def start_batch(self, flight: Flight, now: float, overhead_s: float) -> None:
        """Behind a running batch what goes around it overlaps that one."""
        if self.in_flight or (self.loading and not self.overlaps_loads):
            self.until = max(now, self.until) + flight.device_s
        else:
            self.began, self.until = now, now + flight.device_s + max(overhead_s, self.round_trip_s)
        self.in_flight.append(flight)
        if (held := self.held.get(flight.model)) is not None:
            held.served = True

    def end_batch(self, serial: int, now: float, device_s: float | None = None) -> float:
        """Seconds that it took, from when the device could begin it; `device_s` of them on the device, if that is
        known."""
        took = max(0.0, now - self.began)
        self.busy_s += took
        was_idle = any(flight.serial == serial and flight.began == self.began for flight in self.in_flight)
        if device_s is not None and was_idle:
            self.round_trip_s += ROUND_TRIP_WEIGHT * (max(0.0, took - device_s) - self.round_trip_s)
        self.began = now
        if self.interleaves:
            took = max((now - flight.began for flight in self.in_flight if flight.serial == serial), default=took)
        self.in_flight = [flight for flight in self.in_flight if flight.serial != serial]
        if self.in_flight:
            self.until = now + sum(flight.device_s for flight in self.in_flight)
        elif self.expects and not self.overlaps_loads:
            self.until = now + self.load_s
        return took

    def start_load(self, model: str, load_bytes: int, now: float, until: float) -> None:
        self.loading = self.expects = model
        self.load_s = until - now
        self._reserve(load_bytes)
        if not self.in_flight:
            self.began, self.until = now, until
        elif not self.overlaps_loads:
            self.until = max(now, self.until) + until - now

    def end_load(self, model: str, memory_bytes: int, now: float) -> None:
        self.loading = self.expects = ""
        served = any(flight.model == model for flight in self.in_flight)
        self.held[model] = ResidentModel(memory_bytes=memory_bytes, served=served)
        self._count_load(now)

    def fail_load(self, load_bytes: int, now: float) -> None:
        self.loading = self.expects = ""
        self._reserve(-load_bytes)
        self._count_load(now)

    def unload(self, model: str) -> None:
        """It is gone from the books at once: nothing may be dispatched to it any more."""
        gone = self.held.pop(model)
        self._reserve(-gone.memory_bytes - gone.retained_bytes)

    def lose(self) -> list[str]:
        """The runtime died; the models that were resident."""
        was = list(self.held)
        for held in self.held.values():
            self._reserve(-held.memory_bytes - held.retained_bytes)
        self.held.clear()
        self.barred.clear()
        self.in_flight = []
        self.loading = self.expects = ""
        self.down = True
        self.epoch += 1
        return was

    def limit(self, model: str, rows: int) -> int:
        """Learn that a batch of `rows` of this model does not fit; the most that is tried from now on."""
        self.caps[model] = max(1, min(rows // 2, self.caps.get(model, rows)))
        return self.caps[model]

    def busy_at(self, now: float) -> float:
        """Seconds spent busy so far, work in progress included."""
        return self.busy_s + (now - self.began if self.in_flight or (self.loading and not self.overlaps_loads) else 0.0)

    def as_device(
        self, keep: Mapping[str, float], waiting: frozenset[str], now: float, *, claimant: bool = False
    ) -> Device:
        """As dispatch, or a `claimant`, sees it; `keep` is each model's keep value, `waiting` the models with rows
        waiting."""
        residents = {
            model: Resident(
                model=model,
                memory_bytes=held.memory_bytes + held.retained_bytes,
                retained_bytes=held.retained_bytes,
                keep_value=keep.get(model, 0.0),
                fresh=model in waiting and (not held.served or (self.overlaps_loads and bool(self.in_flight))),
            )
            for model, held in self.held.items()
        }
        takes_any = self.followable and now >= self.follow_at
        behind_load = self.expects != "" and not self.overlaps_loads and not self.in_flight
        if behind_load and takes_any:
            residents[self.expects] = Resident(model=self.expects, memory_bytes=0, fresh=True)
        return Device(
            name=self.name,
            idle=self.idle,
            loadable=self.can_load if claimant else self.loadable,
            followable=takes_any if behind_load else self.followable,
            takes_any=takes_any,
            least_behind=self.least_behind,
            loads_behind=self.can_load_behind(now),
            until=self.until,
            total_bytes=self.total_bytes or UNBOUNDED,
            free_bytes=self.free_bytes,
            residents=residents,
            busy_models=frozenset([*(flight.model for flight in self.in_flight), self.loading]) - {""},
            leavable=self.leavable,
            caps=self.caps,
            barred=frozenset(self.barred),
        )

    def _reserve(self, size: int) -> None:
        if self.total_bytes > 0:
            self.free_bytes -= size
            self.used_bytes += size

    def _count_load(self, now: float) -> None:
        if not self.overlaps_loads:
            self.busy_s += max(0.0, now - self.began)
            self.began = now


def keep_value(load_s: float, demand: float, memory_bytes: int) -> float:
    """Reload cost x demand / bytes: what the memory of an idle model is worth (serving.md, 7)."""
    return max(load_s, 1e-4) * demand / max(memory_bytes, 1)
