"""A CUDA GPU as an accelerator: one copy stream, one compute stream, a static arena for weights in flight.

What is particular: every unit lies in pinned host memory, flat, and is copied in one piece; the arena is allocated once
and no weight ever comes from the caching allocator (so nothing needs `record_stream`); the ends of copies and units are
events, and an arena slot is given back only after the event of the unit that held it; at most `AHEAD` jobs are queued
behind the one that runs (late binding: the policy decides on what is true now). Units of compute wait for their copy on
the device, not on the host. Times are those of the events, converted to the host's clock.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

import torch

from batchwright_worker.backends.base import OutOfDeviceMemoryError
from batchwright_worker.inference.requests import Array
from batchwright_worker.layerwise.execution.jobs import Interval, LayerwiseBatch, UnitJob
from batchwright_worker.layerwise.memory.pool import UnitReader
from batchwright_worker.layerwise.memory.ring import Ring
from batchwright_worker.layerwise.networks.torch import TorchUnits, run_unit, views
from batchwright_worker.layerwise.networks.units import PAGE, Network, State, Unit
from batchwright_worker.layerwise.profiling.profiler import Effort, example_inputs
from batchwright_worker.layerwise.profiling.profiles import Profile, fit_fetch, read_profile, write_profile

__all__ = ["AHEAD", "ANCHOR_S", "DRIFT", "CudaAccelerator", "EventClock"]

AHEAD: Final = 1
"""Jobs queued per engine behind the one that runs (layerwise.md: 1 or 2)."""
ANCHOR_S: Final = 10.0
"""How far an event may lie from the clock's anchor before the anchor moves."""
DRIFT: Final = 2e-4
"""Seconds per second by which the device's clock and the host's may differ (crystals: some 1e-5)."""


class EventClock:
    """Device events on the host's clock: one event whose host time is known, and the time since it.

    The time between two events is a 32-bit float of milliseconds: 2 microseconds are lost after 16 seconds. So the
    anchor moves on to an event of its own every so often. The device's clock runs a little faster or slower than the
    host's: what the host saw last of each event bounds how far off it can be, and the anchor follows that.
    """

    def __init__(self, event: Any, host_s: float) -> None:
        self._anchor = (event, host_s)
        self._ahead_s = inf
        """The least time by which the host was later than the device's clock says, since the anchor moved."""

    def at(self, event: Any) -> float:
        """Host time of an event that has happened."""
        anchor, host_s = self._anchor
        return float(host_s + float(anchor.elapsed_time(event)) / 1e3)

    def ended(self, event: Any, now_s: float) -> float:
        """Host time of an event whose end the host has just seen, at `now_s`."""
        found = self.at(event)
        since_s = found - self._anchor[1]
        self._ahead_s = min(self._ahead_s, now_s - found)
        if since_s > ANCHOR_S:
            # A host that sees every end late looks like a slow device: no clock is off by more than DRIFT.
            most = DRIFT * since_s
            self._anchor = (event, found + min(max(self._ahead_s, -most), most))
            self._ahead_s = inf
        return found


@dataclass(slots=True, kw_only=True)
class _CudaNetwork:
    """`host`: per unit its bytes in pinned memory; `resident`: per kept unit its bytes on the device."""

    network: TorchUnits
    host: list[Any]
    resident: dict[int, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _JobEvents:
    """Of one job: start and end of its copy, and of its compute."""

    copy_start: Any = None
    copy_end: Any = None
    compute_start: Any = None
    compute_end: Any = None


class CudaAccelerator:
    """`budget_bytes` bounds the arena; resident units come on top. Networks are torch's."""

    chained = True

    def __init__(self, budget_bytes: int, device: str = "cuda:0", ahead: int = AHEAD) -> None:
        self._device = torch.device(device)
        self._pinned = self._device.type == "cuda"
        self.ring = Ring(budget_bytes // PAGE * PAGE, mirrored=False)
        self.arena = torch.empty(self.ring.capacity, dtype=torch.uint8, device=self._device)
        self.copy_stream = torch.cuda.Stream(self._device)
        self.compute_stream = torch.cuda.Stream(self._device)
        self.clock = EventClock(*self._anchor())
        self.memory = _CopyEngine(self, ahead)
        self.compute = _KernelEngine(self, ahead)
        self._loaded: dict[str, _CudaNetwork] = {}

    def add(self, name: str, network: Network) -> None:
        """Read its units into pinned memory."""
        assert isinstance(network, TorchUnits), "the device runs torch's graphs"
        reader = UnitReader(network.folder)
        try:
            host = [_read(reader, unit, pinned=self._pinned) for unit in network.index.units]
        finally:
            reader.close()
        self._loaded[name] = _CudaNetwork(network=network, host=host)

    def keep(self, name: str, positions: frozenset[int]) -> None:
        """Hold these of its units on the device (and no others); none of its batches may be in flight."""
        loaded = self._loaded[name]
        loaded.resident = {position: loaded.host[position].to(self._device) for position in sorted(positions)}
        torch.cuda.synchronize(self._device)

    def remove(self, name: str) -> None:
        """Remove a network; none of its batches may be in flight."""
        self._loaded.pop(name).network.close()

    def close(self) -> None:
        """Remove all networks and free the arena."""
        self._loaded.clear()
        torch.cuda.synchronize(self._device)
        self.arena = torch.empty(0)
        torch.cuda.empty_cache()

    def network(self, name: str) -> TorchUnits:
        return self._loaded[name].network

    def begin(self, batch: LayerwiseBatch) -> None:
        """Inputs go to the device on the compute stream, in order with the units that read them."""
        batch.state = self.to_device(self._loaded[batch.model].network.begin(batch.inputs, batch.rows))

    def to_device(self, state: State) -> State:
        """A state that `begin` made on the host."""
        with torch.cuda.stream(self.compute_stream):
            return [{name: self._moved(value) for name, value in values.items()} for values in state]

    def _moved(self, value: Any) -> Any:
        """Through pinned memory, so that the host need not wait."""
        return (value.pin_memory() if self._pinned else value).to(self._device, non_blocking=True)

    def on_device(self, name: str) -> list[Any]:
        """All weights of a network, copied now, in memory of their own beyond the arena (to compare with)."""
        weights = [host.to(self._device) for host in self._loaded[name].host]
        torch.cuda.synchronize(self._device)
        return weights

    def end(self, batch: LayerwiseBatch) -> Mapping[str, Array]:
        """The outputs, copied back behind the last unit."""
        with torch.cuda.stream(self.compute_stream):
            return self._loaded[batch.model].network.end(batch.state, batch.rows)

    def copy(self, job: UnitJob) -> None:
        """Queue a unit's copy into its place in the arena.

        The copy stream waits for nothing: `Ring.place` gives a place out again only after the host has seen the end of
        the unit that held it (`_KernelEngine.finish`, then `Executor._computed`), so no kernel can still read it.
        """
        job.events = events = _JobEvents()
        loaded = self._loaded[job.batch.model]
        with torch.cuda.stream(self.copy_stream):
            events.copy_start = _recorded(self.copy_stream)
            if job.bytes and job.batch.error is None:
                slot = self.arena[job.offset : job.offset + job.bytes]
                slot.copy_(loaded.host[job.position], non_blocking=True)
            events.copy_end = _recorded(self.copy_stream)

    def run(self, job: UnitJob) -> None:
        """Queue a unit's kernels behind its copy."""
        loaded, events = self._loaded[job.batch.model], _events(job)
        with torch.cuda.stream(self.compute_stream), torch.inference_mode():
            self.compute_stream.wait_event(events.copy_end)
            # Behind the wait: what the unit waits for its weights is idle time (IC), not compute.
            events.compute_start = _recorded(self.compute_stream)
            try:
                if job.batch.error is None:
                    self._launch(loaded, job)
            except torch.OutOfMemoryError as error:
                job.error = OutOfDeviceMemoryError(str(error))
            except Exception as error:
                job.error = error
            # Also after an error: kernels may have been queued before it, and the place is free only behind them.
            events.compute_end = _recorded(self.compute_stream)

    def _launch(self, loaded: _CudaNetwork, job: UnitJob) -> None:
        network = loaded.network
        kept = loaded.resident.get(job.position)
        memory = self.arena[job.offset : job.offset + job.bytes] if kept is None else kept
        tensors = views(memory, network.index.units[job.position].pieces)
        for values in job.batch.state:
            run_unit(network.graphs[job.position], tensors, values)

    def measured(self, name: str, rows: int, effort: Effort) -> Profile:
        """The profile on disk, else a new one from device events; nothing else may run here meanwhile."""
        loaded = self._loaded[name]
        index, processor = loaded.network.index, torch.cuda.get_device_name(self._device)
        known = read_profile(loaded.network.folder, processor, rows)
        if known is not None and known.runs >= effort.least and known.digest == index.digest:
            return known
        profile = _CudaProfiler(self, loaded, name, rows).profile(processor, effort)
        write_profile(loaded.network.folder, profile)
        return profile

    def _anchor(self) -> tuple[Any, float]:
        torch.cuda.synchronize(self._device)
        event = torch.cuda.Event(enable_timing=True)
        event.record(self.copy_stream)
        event.synchronize()
        return event, time.monotonic()


class _CopyEngine:
    """The memory engine: copies from pinned host memory on the copy stream."""

    def __init__(self, device: CudaAccelerator, ahead: int) -> None:
        self.ahead = ahead
        self._device = device

    def start(self, job: UnitJob) -> None:
        self._device.copy(job)

    def finish(self, job: UnitJob) -> Interval:
        events = _events(job)
        events.copy_end.synchronize()
        clock = self._device.clock
        now = time.monotonic()
        return Interval(clock.at(events.copy_start), clock.ended(events.copy_end, now))


class _KernelEngine:
    """The compute engine: kernels on the compute stream."""

    def __init__(self, device: CudaAccelerator, ahead: int) -> None:
        self.ahead = ahead
        self._device = device

    def start(self, job: UnitJob) -> None:
        self._device.run(job)

    def finish(self, job: UnitJob) -> Interval:
        events = _events(job)
        try:
            events.compute_end.synchronize()
        except RuntimeError as error:  # what a kernel did wrong shows here
            job.error = job.error or error
            now = time.monotonic()
            return Interval(now, now)
        now, clock = time.monotonic(), self._device.clock
        return Interval(clock.at(events.compute_start), clock.ended(events.compute_end, now))


class _CudaProfiler:
    """Measures one network unit by unit, alone on the device, each unit's weights in memory of their own meanwhile."""

    def __init__(self, device: CudaAccelerator, loaded: _CudaNetwork, name: str, rows: int) -> None:
        self._device, self._loaded, self._rows = device, loaded, rows
        inputs = example_inputs(loaded.network.inputs, rows)
        self._batch = LayerwiseBatch(model=name, inputs=inputs, rows=rows, layers=(), settled=lambda _batch: None)

    def profile(self, processor: str, effort: Effort) -> Profile:
        index = self._loaded.network.index
        copies = [self._copy_s(host) for unit, host in zip(index.units, self._loaded.host, strict=True) if unit.size]
        sizes = [unit.size for unit in index.units if unit.size]
        latency_s, bytes_per_second = fit_fetch(sizes, copies) if sizes else (0.0, 1e12)
        compute_s = self._compute_s(effort.runs)
        return Profile(
            digest=index.digest,
            model=index.model,
            processor=processor,
            rows=self._rows,
            compute_s=compute_s,
            bytes=[unit.size for unit in index.units],
            latency_s=latency_s,
            bytes_per_second=bytes_per_second,
            runs=effort.runs,
        )

    def _copy_s(self, host: Any) -> float:
        """Median of five copies, into memory of its own: weights of other models may be in flight in the arena."""
        stream, slot = self._device.copy_stream, torch.empty_like(host, device=self._device.arena.device)
        return statistics.median(_timed(stream, lambda: slot.copy_(host, non_blocking=True)) for _ in range(5))

    def _compute_s(self, runs: int) -> list[float]:
        self._device.begin(self._batch)
        state, medians = self._batch.state, []
        network = self._loaded.network
        for position, host in enumerate(self._loaded.host):
            tensors = views(host.to(self._device.arena.device), network.index.units[position].pieces)
            times: deque[float] = deque()
            for _ in range(runs + 1):
                trial = [dict(values) for values in state]

                def work(trial: Any = trial, position: int = position, tensors: Any = tensors) -> None:
                    for values in trial:
                        run_unit(network.graphs[position], tensors, values)

                times.append(_timed(self._device.compute_stream, work))
            times.popleft()
            medians.append(statistics.median(times))
            state = trial
        return medians


def _timed(stream: Any, work: Callable[[], Any]) -> float:
    """Device seconds of what `work` queues on the stream."""
    with torch.cuda.stream(stream), torch.inference_mode():
        start = _recorded(stream)
        work()
        end = _recorded(stream)
    end.synchronize()
    return float(start.elapsed_time(end) / 1e3)


def _events(job: UnitJob) -> _JobEvents:
    events = job.events
    assert isinstance(events, _JobEvents), "a job is copied before it runs"
    return events


def _recorded(stream: Any) -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record(stream)
    return event


def _read(reader: UnitReader, unit: Unit, *, pinned: bool) -> Any:
    host = torch.empty(unit.size, dtype=torch.uint8, pin_memory=pinned)
    reader.read(unit, host.numpy())
    return host
