"""A deterministic discrete-event simulator around the very `Scheduler` that the engine runs. Pure.

It answers what a device of given speed and memory would do under a given load: open loop (arrivals given or Poisson by
a generator that the caller seeds) or closed loop (a number of callers, each with one request in flight).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, Protocol

from batchwright_worker.api.deployment import Eviction, QueueOrder
from batchwright_worker.inference.runtime import LoadReport, MemoryReport
from batchwright_worker.scheduler.devices import DeviceConfig
from batchwright_worker.scheduler.dispatch import LoadModel, Nothing, RunBatch
from batchwright_worker.scheduler.queues import Bucket
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ModelConfig, ServedModel
from batchwright_worker.scheduler.steps import Batch, QueueRequest, Refusal
from batchwright_worker.scheduler.window_counts import percentile

Outcome = Literal["Answered", "Refused", "Late"]


class LoadGenerator(Protocol):
    """What is needed of a random.Random."""

    def expovariate(self, lambd: float) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedDevice:
    """`seconds(model, rows, now)`: device time of a batch that starts now. `memory_bytes` 0: boundless."""

    seconds: Callable[[str, int, float], float]
    name: str = "device-0"
    memory_bytes: int = 0
    load_s: float = 0.0
    load_bytes: int = 0
    overlaps_loads: bool = False
    depth: int = 1
    """How many batches it may be given at a time; it runs them one after the other."""
    there_s: float = 0.0
    """From the decision to the start of a batch on the idle device: copies, the way to the runtime."""
    back_s: float = 0.0
    """From the end of a batch on the device to the answers."""
    of_shape: Callable[[Bucket, int], float] | None = None
    """Device time of a number of rows of a bucket, where it depends on that; instead of `seconds`."""

    def batch_s(self, run: RunBatch, now: float) -> float:
        """Device time of a batch that starts now."""
        return self.of_shape(run.bucket, run.rows) if self.of_shape else self.seconds(run.model, run.rows, now)


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """One request at `time`."""

    time: float
    model: str = "m"
    rows: int = 1
    bucket: Bucket = ()
    caller: int = -1
    """In a closed loop: who sends the next request once answered."""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one request, and when."""

    arrival: Arrival
    outcome: Outcome
    end: float

    @property
    def latency_s(self) -> float:
        return self.end - self.arrival.time


@dataclass(slots=True)
class SimulationReport:
    """All that happened. Rates are rows per second."""

    seconds: float
    done: list[Fate] = field(default_factory=list)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    """Per model the batch size after each window."""
    reasons: dict[str, list[str]] = field(default_factory=dict)
    loads: int = 0

    def answered(self, since: float = 0.0) -> list[Fate]:
        return [one for one in self.done if one.outcome == "Answered" and one.end >= since]

    def rows_per_second(self, since: float = 0.0) -> float:
        """Rows answered, in time or not."""
        return sum(one.arrival.rows for one in self.answered(since)) / (self.seconds - since)

    def in_time_per_second(self, target_s: float, since: float = 0.0) -> float:
        """Rows answered within the target."""
        good = [one.arrival.rows for one in self.answered(since) if one.latency_s <= target_s]
        return sum(good) / (self.seconds - since)

    def in_time_share(self, target_s: float) -> float:
        """Share of all requests answered within the target; refusals count as misses."""
        good = sum(1 for one in self.answered() if one.latency_s <= target_s)
        return good / max(1, len(self.done))

    def count(self, outcome: Outcome) -> int:
        return sum(1 for one in self.done if one.outcome == outcome)

    def latency_s(self, share: float, since: float = 0.0) -> float:
        return percentile([one.latency_s for one in self.answered(since)], share)


def poisson(
    rate: float, seconds: float, generator: LoadGenerator, model: str = "m", priority: int = 0
) -> Iterator[Arrival]:
    """Open-loop arrivals of one row each."""
    now = generator.expovariate(rate)
    while now < seconds:
        yield Arrival(now, model, priority=priority)
        now += generator.expovariate(rate)


def closed_loop(callers: int, model: str = "m") -> list[Arrival]:
    """Callers that each send their next request as soon as they are answered."""
    return [Arrival(0.0, model, 1, (), caller) for caller in range(callers)]


@dataclass(slots=True)
class Simulation:
    """One run: build it, then `run`."""

    models: Iterable[ModelConfig]
    devices: Iterable[SimulatedDevice]
    order: QueueOrder = "Balanced"
    eviction: Eviction = "LeastWorth"
    warm_up: bool = True
    """Begin with what the engine's warm-up would have measured: one batch of 1, 2, 4, ... rows."""
    arrival_s: float = 0.0
    """From a caller's request to its offer: the network and reading it."""
    answer_s: float = 0.0
    """From the end of a batch, as the sidecar sees it, to the caller."""
    timer_s: float = 0.0
    """How much later than set a timer wakes the dispatcher."""
    scheduler: Scheduler = field(init=False)
    _machines: dict[str, SimulatedDevice] = field(init=False)
    _events: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    _count: int = 0
    _alarm: float = -1.0
    _free_at: dict[str, float] = field(default_factory=dict)
    _open: dict[int, Arrival] = field(default_factory=dict)
    _missing: dict[int, int] = field(default_factory=dict)
    _report: SimulationReport = field(init=False)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(order=self.order, eviction=self.eviction)
        self._machines = {machine.name: machine for machine in self.devices}
        for machine in self._machines.values():
            config = DeviceConfig(
                name=machine.name, kind="simulated", overlaps_loads=machine.overlaps_loads, depth=machine.depth
            )
            total = machine.memory_bytes
            self.scheduler.add_device(config, up=True)
            self.scheduler.memory_measured(
                machine.name, MemoryReport(total_bytes=total, used_bytes=0, free_bytes=total)
            )
        for model in self.models:
            self.scheduler.add_model(model, 0.0).footprint.load_s = max(m.load_s for m in self._machines.values())

    def run(self, arrivals: Iterable[Arrival], seconds: float) -> SimulationReport:
        """Play the arrivals (in order of time) and stop at `seconds`; what is in flight then is not in the report."""
        self._report = SimulationReport(seconds=seconds)
        self._load_what_fits()
        feed = iter(arrivals)
        self._feed(feed)
        for served in self.scheduler.models.values():
            self._at(served.config.window_s, partial(self._window, served.name))
        while self._events and self._events[0][0] <= seconds:
            now, _, happen = heapq.heappop(self._events)
            happen(now)
        return self._report

    def _load_what_fits(self) -> None:
        for name in self.scheduler.models:
            for machine in self._machines.values():
                if self.scheduler.devices[machine.name].memory.free_bytes >= machine.load_bytes:
                    self.scheduler.assume_resident(machine.name, name, machine.load_bytes)
        if self.warm_up:
            for served in self.scheduler.models.values():
                self._warm(served, next(iter(self._machines.values())))

    def _warm(self, served: ServedModel, machine: SimulatedDevice) -> None:
        size = 1
        while size <= served.config.tuning.max_size:
            self.scheduler.warm_up_ran(served.name, size, machine.seconds(served.name, size, 0.0), 0)
            size *= 2
        self.scheduler.warmed_up(served.name)

    def _at(self, time: float, happen: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, happen))

    def _feed(self, feed: Iterator[Arrival]) -> None:
        arrival = next(feed, None)
        if arrival is not None:
            self._at(arrival.time + self.arrival_s, lambda now: self._arrive(arrival, feed, now))

    def _arrive(self, arrival: Arrival, feed: Iterator[Arrival] | None, now: float) -> None:
        if feed is not None:
            self._feed(feed)
        offer = QueueRequest(
            model=arrival.model, rows=arrival.rows, arrival=now, bucket=arrival.bucket, priority=arrival.priority
        )
        key = self.scheduler.offer(offer, now)
        if isinstance(key, Refusal):
            self._finish(arrival, "Refused", now)
            return
        self._open[key] = arrival
        self._missing[key] = arrival.rows
        self._dispatch(now)

    def _finish(self, arrival: Arrival, outcome: Outcome, now: float, rows: int = 0) -> None:
        """`rows`: the last ones, that complete it."""
        self._report.done.append(Fate(arrival, outcome, now + self.answer_s))
        if outcome == "Answered":
            self.scheduler.answered(arrival.model, rows, now - arrival.time - self.arrival_s)
        if arrival.caller >= 0:
            pause = 0.0 if outcome == "Answered" else 0.1
            again = replace(arrival, time=now + pause)
            self._at(again.time + self.answer_s + self.arrival_s, lambda later: self._arrive(again, None, later))

    def _dispatch(self, now: float) -> None:
        while True:
            step = self.scheduler.next(now)
            for key in step.late:
                self._missing.pop(key)
                self._finish(self._open.pop(key), "Late", now)
            for key in step.displaced:
                self._missing.pop(key)
                self._finish(self._open.pop(key), "Refused", now)
            match step.action:
                case Batch() as batch:
                    self._start_batch(batch, now)
                case LoadModel() as load:
                    self._start_load(load, now)
                case Nothing():
                    self._wake_at(step.wake_at, now)
                    return

    def _wake_at(self, when: float | None, now: float) -> None:
        if when is not None and when + self.timer_s != self._alarm:
            self._alarm = when + self.timer_s
            self._at(max(now, self._alarm), self._dispatch)

    def _start_load(self, load: LoadModel, now: float) -> None:
        machine = self._machines[load.device]
        begins = now + machine.there_s
        if not machine.overlaps_loads:
            begins = max(begins, self._free_at.get(machine.name, 0.0))
            self._free_at[machine.name] = begins + machine.load_s
        self._at(begins + machine.load_s + machine.back_s, partial(self._end_load, load))

    def _start_batch(self, batch: Batch, now: float) -> None:
        machine = self._machines[batch.run.device]
        begins = max(now + machine.there_s, self._free_at.get(machine.name, 0.0))
        seconds = machine.batch_s(batch.run, begins)
        self._free_at[machine.name] = begins + seconds
        self._at(begins + seconds + machine.back_s, partial(self._end_batch, batch, seconds))

    def _end_batch(self, batch: Batch, seconds: float, now: float) -> None:
        self.scheduler.batch_ended(batch, seconds, 0, now)
        for part in batch.slices:
            if part.key not in self._missing:
                continue
            self._missing[part.key] -= part.rows
            if self._missing[part.key] == 0:
                del self._missing[part.key]
                self._finish(self._open.pop(part.key), "Answered", now, part.rows)
            else:
                self.scheduler.answered_in_part(batch.run.model, part.rows)
        self._dispatch(now)

    def _end_load(self, load: LoadModel, now: float) -> None:
        machine = self._machines[load.device]
        self._report.loads += 1
        report = LoadReport(
            memory_bytes=machine.load_bytes, bytes_per_row=0, seconds=machine.load_s, inputs=(), outputs=()
        )
        self.scheduler.load_ended(load, report, now)
        self._dispatch(now)

    def _window(self, name: str, now: float) -> None:
        decision, _ = self.scheduler.close_window(name, now)
        self._report.sizes.setdefault(name, []).append(decision.size)
        self._report.reasons.setdefault(name, []).append(decision.reason)
        self._at(now + self.scheduler.models[name].config.window_s, partial(self._window, name))
