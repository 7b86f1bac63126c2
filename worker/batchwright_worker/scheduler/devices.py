"""What is in each device's memory, and what each device works on: the device state behind dispatch. Pure.

Memory is measured by the runtimes; between two measurements the state follows the loads and unloads decided here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from batchwright_worker.inference.runtime import LoadReport, MemoryReport

UNBOUNDED = 1 << 60
"""Bytes or rows where nothing bounds them."""
SHORT_S = 0.002
"""Behind a batch predicted to take less device time than this the next one follows at once: the way to the runtime and
back (0.65 ms each on two cores, docs/measurements.md) takes longer than what waiting could gather. It has half the
rows at least, so that two of a size alternate; else few rows at a time would chase each other."""
LEAD_SHARE = 0.2
"""Any batch may follow shortly before the running one ends: at most this share of its device time, ..."""
MOST_LEAD_S = 0.004
"""... never longer than this, because rows that arrive in the lead are not in the batch, ..."""
DECIDING_S = 0.0025
"""... and as long as the way to the runtime and back takes, and what a timer may be late by and the decision takes (a
decision took 0.9 ms with fifty queues and cold caches, and met the end of the load on the same processor: 6 % of the
device time were lost, now 2 %; docs/measurements.md)."""
ROUND_TRIP_WEIGHT = 0.1
"""Share of the newest batch in the smoothed round trip."""


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
    """A model in a device's memory; `has_served` once a batch of it has started since the load. `retained_bytes`: what
    its allocator keeps of past batches; that comes on top, and is free for its own next batch only."""

    memory_bytes: int
    retained_bytes: int = 0
    has_served: bool = False


@dataclass(slots=True, kw_only=True)
class DeviceMemory:
    """One device's memory: its resident models and the limits learned there. Nothing bounds it while `total_bytes`
    is 0; then `free_bytes` is UNBOUNDED. `caps`: the most rows of a batch that were found to fit, per model."""

    total_bytes: int = 0
    used_bytes: int = 0
    free_bytes: int = UNBOUNDED
    residents: dict[str, ResidentModel] = field(default_factory=dict)
    caps: dict[str, int] = field(default_factory=dict)
    loading_bytes: int = 0
    """What the load in progress is expected to take, counted as used already."""
    load_blocked: set[str] = field(default_factory=set)
    """Models whose load has failed here; not tried again until they are unblocked."""

    @property
    def capacity_bytes(self) -> int:
        """All of it, UNBOUNDED where nothing bounds it."""
        return self.total_bytes or UNBOUNDED

    def measured(self, report: MemoryReport) -> None:
        """The runtime has reported its memory."""
        self.total_bytes = report.total_bytes
        self.used_bytes = report.used_bytes
        self.free_bytes = report.free_bytes if report.total_bytes > 0 else UNBOUNDED

    def limit(self, model: str, rows: int) -> int:
        """Learn that a batch of `rows` of this model does not fit; the most that is tried from now on."""
        self.caps[model] = max(1, min(rows // 2, self.caps.get(model, rows)))
        return self.caps[model]

    def allocate(self, size: int) -> None:
        """Count bytes as used until the next measurement; a negative size gives them back."""
        if self.total_bytes > 0:
            self.free_bytes -= size
            self.used_bytes += size

    def start_load(self, size: int) -> None:
        """Expect a load of `size` bytes."""
        self.loading_bytes = size
        self.allocate(size)

    def end_load(self, size: int) -> None:
        """The load has ended, and `size` bytes are there."""
        self.allocate(size - self.loading_bytes)
        self.loading_bytes = 0

    def unload(self, model: str) -> None:
        """The model is resident no more, at once: nothing may be dispatched to it."""
        resident = self.residents.pop(model)
        self.allocate(-resident.memory_bytes - resident.retained_bytes)

    def lose(self) -> list[str]:
        """The runtime died; the models that were resident."""
        self.end_load(0)
        lost = list(self.residents)
        for model in lost:
            self.unload(model)
        self.load_blocked.clear()
        return lost


class Flight(Struct, frozen=True, kw_only=True, gc=False):
    """A batch of `rows` that the device has been given: `serial` is its number, `device_s` its predicted device time.
    `isolated`: it may be what kills the runtime, so nothing else is in flight or loaded with it. `began`: when it was
    given."""

    serial: int
    model: str
    device_s: float
    isolated: bool = False
    began: float = 0.0
    rows: int = 0


@dataclass(slots=True, kw_only=True)
class DeviceTimeline:
    """One device's work and when it is predicted to end. `depth`: how many batches it may be given at a time; it runs
    them one after the other, or concurrently if it `interleaves` (then at most two per model, one behind the other).
    `overlaps_loads`: a load takes no device time. `until`: when all its work is predicted to end; `began`: when what it
    works on began."""

    overlaps_loads: bool = False
    depth: int = 1
    interleaves: bool = False
    in_flight: list[Flight] = field(default_factory=list)
    loading: str = ""
    """The model on its way in or out."""
    expects: str = ""
    """The model on its way in, not the one on its way out."""
    load_s: float = 0.0
    """What that load is predicted to take, from when the device can begin it."""
    until: float = 0.0
    began: float = 0.0
    busy_s: float = 0.0
    round_trip_s: float = 0.0
    """Smoothed time that a batch given to the idle device takes beyond its device time."""
    model_ended: dict[str, float] = field(default_factory=dict)
    """Where batches interleave: when the last one of each model ended, which the next one may have waited behind."""
    awaits_isolated: bool = False
    """Where loads overlap batches: do isolated rows wait for a model that is here? Then no load begins before they have
    run, and where batches interleave, nothing does while others are in flight: they would wait for ever."""
    suspect: set[str] = field(default_factory=set)
    """Models whose last batch has failed or is run again in parts: they are not unloaded behind a batch before one has
    ended well, so that bad rows can be found."""

    @property
    def running(self) -> str:
        """The model of the batch that runs, empty if none does."""
        return self.in_flight[0].model if self.in_flight else ""

    @property
    def runs_isolated(self) -> bool:
        """Does it run rows that share a batch with no others?"""
        for flight in self.in_flight:  # noqa: SIM110 - asked for every batch, and a generator costs more than its rows
            if flight.isolated:
                return True
        return False

    @property
    def takes_batch(self) -> bool:
        """Can a batch start now? A load that overlaps leaves the device free for one, isolated rows do not."""
        if self.in_flight and (not self.interleaves or len(self.in_flight) >= self.depth or self.runs_isolated):
            return False
        return not self.loading or self.overlaps_loads

    @property
    def takes_follower(self) -> bool:
        """Does a batch run (or a load, where it blocks the device), with room for a batch behind it?"""
        if self.interleaves or len(self.in_flight) >= self.depth:
            return False
        if self.loading and not self.overlaps_loads:
            has_time = self.until - self.began > 2 * MOST_LEAD_S
            return self.depth > 1 and self.expects != "" and has_time and not self.in_flight
        return bool(self.in_flight) and not self.runs_isolated

    @property
    def takes_load(self) -> bool:
        """Can a load start now? Not beside rows that are run apart because a runtime was lost under them: it must be
        known under what the next one is lost."""
        if self.loading or not self.in_flight:
            return not self.loading
        return self.overlaps_loads and not self.runs_isolated

    def takes_behind(self, model: str, rows: int, full: bool) -> bool:
        """Where batches interleave: is there one batch of the model in flight that this one may be put behind, so that
        its first weights are fetched while the other computes? It should be no smaller: rows that wait a little share
        a batch with those that come."""
        flights = [flight for flight in self.in_flight if flight.model == model]
        if not self.interleaves or len(flights) != 1 or self.loading == model:
            return False
        return not flights[0].isolated and (full or rows >= flights[0].rows)

    @property
    def follow_at(self) -> float:
        """From when on any batch may be put behind what runs, so that the device never waits for it."""
        device_s = self._in_flight_s if self.in_flight else self.until - self.began
        if device_s < SHORT_S:
            return self.began
        return self.until - min(self.round_trip_s + DECIDING_S, LEAD_SHARE * device_s, MOST_LEAD_S)

    @property
    def _in_flight_s(self) -> float:
        """Predicted device time of all that was given to it."""
        seconds = 0.0
        for flight in self.in_flight:
            seconds += flight.device_s
        return seconds

    @property
    def least_behind(self) -> int:
        """The rows that a batch needs to be put behind what runs, unless it is full."""
        last = self.in_flight[-1] if self.in_flight else None
        return (last.rows + 1) // 2 if last is not None and last.device_s < SHORT_S else 1

    @property
    def unloadable_behind(self) -> frozenset[str]:
        """Models in flight that an unload put behind them finds idle: the device works in the order of the requests."""
        if self.overlaps_loads or self.interleaves:
            return frozenset()
        return frozenset(flight.model for flight in self.in_flight if not flight.isolated) - self.suspect

    def start_batch(self, flight: Flight, now: float, overhead_s: float) -> None:
        """Behind a running batch what goes around it overlaps that one."""
        if self.in_flight or (self.loading and not self.overlaps_loads):
            self.until = max(now, self.until) + flight.device_s
        else:
            self.began, self.until = now, now + flight.device_s + max(overhead_s, self.round_trip_s)
        self.in_flight.append(flight)

    def end_batch(self, serial: int, now: float, device_s: float | None = None) -> float:
        """Seconds that it took, from when the device could begin it; `device_s` of them on the device, if that is
        known."""
        took = max(0.0, now - self.began)
        self.busy_s += took
        ended = next((flight for flight in self.in_flight if flight.serial == serial), None)
        if ended is not None:
            self.in_flight.remove(ended)
            if device_s is not None and ended.began == self.began:
                self.round_trip_s += ROUND_TRIP_WEIGHT * (max(0.0, took - device_s) - self.round_trip_s)
            if self.interleaves:
                took = now - max(ended.began, self.model_ended.get(ended.model, 0.0))
                self.model_ended[ended.model] = now
        self.began = now
        if self.in_flight:
            self.until = now + self._in_flight_s
        elif self.expects and not self.overlaps_loads:
            self.until = now + self.load_s
        return took

    def start_load(self, model: str, now: float, until: float) -> None:
        """A load begins that is predicted to end at `until` if the device can begin it now."""
        self.loading = self.expects = model
        self.load_s = until - now
        if not self.in_flight:
            self.began, self.until = now, until
        elif not self.overlaps_loads:
            self.until = max(now, self.until) + until - now

    def end_load(self, now: float) -> None:
        """A load has ended, well or not."""
        self.loading = self.expects = ""
        if not self.overlaps_loads:
            self.busy_s += max(0.0, now - self.began)
            self.began = now

    def lose(self) -> None:
        """The runtime died, and its work with it."""
        self.in_flight = []
        self.loading = self.expects = ""

    def busy_at(self, now: float) -> float:
        """Seconds spent busy so far, work in progress included."""
        return self.busy_s + (now - self.began if self.in_flight or (self.loading and not self.overlaps_loads) else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """What is known of a device before anything runs on it; the last three as `DeviceTimeline` has them."""

    name: str
    kind: str
    overlaps_loads: bool = False
    depth: int = 1
    interleaves: bool = False


@dataclass(slots=True, kw_only=True)
class Device:
    """One device: its memory, its work, and whether it may be given more. `epoch` grows when its runtime is lost (what
    was begun before ends nowhere); `reservations`: how many loads and unloads that no rows wait for want it next, and
    until they begin, nothing else does. `load_reservations`: the same for loads that need not wait for batches, which
    keep back other loads alone."""

    name: str
    kind: str
    memory: DeviceMemory
    timeline: DeviceTimeline
    down: bool = False
    epoch: int = 0
    reservations: int = 0
    load_reservations: int = 0

    @property
    def available(self) -> bool:
        """May it be given anything more? If so, its timeline says what."""
        return not self.down and not self.reservations

    @property
    def idle(self) -> bool:
        """Can it start a batch?"""
        return not self.down and not self.reservations and self.timeline.takes_batch

    @property
    def takes_isolated(self) -> bool:
        """Can a batch of isolated rows start?"""
        timeline = self.timeline
        return self.idle and not timeline.in_flight and not timeline.loading

    @property
    def takes_shared(self) -> bool:
        """Can a batch of other rows start?"""
        timeline = self.timeline
        drains = timeline.awaits_isolated and timeline.interleaves and timeline.in_flight
        return self.idle and not drains

    @property
    def followable(self) -> bool:
        """Can it be given a batch behind what it works on?"""
        return not self.down and not self.reservations and self.timeline.takes_follower

    @property
    def loadable(self) -> bool:
        """Can it start a load?"""
        return not self.reservations and not self.load_reservations and self.loadable_reserved

    @property
    def loadable_reserved(self) -> bool:
        """The same for one that has reserved it."""
        return not self.down and self.timeline.takes_load and not self.timeline.awaits_isolated

    @property
    def quiet(self) -> bool:
        """Is it up and does nothing at all?"""
        return not self.down and not self.timeline.in_flight and not self.timeline.loading

    @property
    def settled(self) -> bool:
        """Is it quiet, with nothing that has to begin before a load?"""
        return self.quiet and not self.timeline.awaits_isolated

    def holds(self, model: str) -> bool:
        """Is the model resident?"""
        return model in self.memory.residents

    def runs(self, model: str) -> bool:
        """Is a batch of the model in flight?"""
        return any(flight.model == model for flight in self.timeline.in_flight)

    def free_at(self, now: float) -> float:
        """When it can start one more batch, as predicted."""
        return now if self.idle else max(now, self.timeline.until)

    def start_batch(self, flight: Flight, now: float, overhead_s: float) -> None:
        """A batch begins, here or behind what runs."""
        self.timeline.start_batch(flight, now, overhead_s)
        if (resident := self.memory.residents.get(flight.model)) is not None:
            resident.has_served = True

    def start_load(self, model: str, load_bytes: int, now: float, until: float) -> None:
        """A load begins; its memory counts as used from now on."""
        self.memory.start_load(load_bytes)
        self.timeline.start_load(model, now, until)

    def end_load(self, model: str, memory_bytes: int, now: float) -> None:
        """The model is resident; a batch of it may be in flight already, put behind the load."""
        self.timeline.end_load(now)
        self.memory.end_load(memory_bytes)
        self.memory.residents[model] = ResidentModel(memory_bytes=memory_bytes, has_served=self.runs(model))

    def fail_load(self, now: float) -> None:
        """The load has failed and gives its memory back."""
        self.timeline.end_load(now)
        self.memory.end_load(0)

    def reserve(self, to_load: bool, by: int = 1) -> None:
        """Keep it for a load or unload, or give it up (-1)."""
        if to_load and self.timeline.overlaps_loads:
            self.load_reservations += by
        else:
            self.reservations += by

    def lose(self) -> list[str]:
        """The runtime died; the models that were resident."""
        self.timeline.lose()
        self.down = True
        self.epoch += 1
        return self.memory.lose()


def new_device(config: DeviceConfig, up: bool) -> Device:
    """A device that holds nothing and does nothing."""
    timeline = DeviceTimeline(overlaps_loads=config.overlaps_loads, depth=config.depth, interleaves=config.interleaves)
    return Device(name=config.name, kind=config.kind, memory=DeviceMemory(), timeline=timeline, down=not up)
