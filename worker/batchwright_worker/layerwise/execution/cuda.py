"""A CUDA GPU as an accelerator: streams for weights, inputs, compute and answers, a static arena for weights in flight.

What is particular:

- every network's units lie in pinned host memory, flat; a unit is copied in pieces, so that the inputs of a new batch
  (a stream of their own) wait for a piece at most: the copy engine takes the streams in turn, whatever their priority
- the arena is allocated once; no weight ever comes from the caching allocator, so nothing needs `record_stream`
- the device itself waits: compute for its copy, a copy for the compute that frees its place. The host only sees to it
  that a place is given on once that compute is queued
- an answer is copied back behind its last unit on a stream of its own, and no batch that computes waits for it
- at most `AHEAD` jobs are queued behind the one that runs (late binding: the policy decides on what is true now)

Times are those of the events, converted to the host's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from batchwright_worker.backends.base import OutOfDeviceMemoryError
from batchwright_worker.backends.torch_values import tensor_of
from batchwright_worker.inference.requests import Array
from batchwright_worker.layerwise.execution.cuda_clock import EventClock
from batchwright_worker.layerwise.execution.cuda_driver import CudaDriver, TorchCuda
from batchwright_worker.layerwise.execution.cuda_profiler import CudaProfiler, timed
from batchwright_worker.layerwise.execution.cuda_staging import StagingBuffers
from batchwright_worker.layerwise.execution.jobs import Interval, LayerwiseBatch, UnitJob
from batchwright_worker.layerwise.memory.pool import UnitReader
from batchwright_worker.layerwise.memory.ring import Ring
from batchwright_worker.layerwise.networks.torch import TorchUnits, run_unit, views
from batchwright_worker.layerwise.networks.units import PAGE, Network, State
from batchwright_worker.layerwise.profiling.fetch_floor import PROBE_BYTES
from batchwright_worker.layerwise.profiling.profiler import Effort, example_inputs
from batchwright_worker.layerwise.profiling.profiles import Profile, read_profile, write_profile

__all__ = ["AHEAD", "PIECE_BYTES", "CudaAccelerator"]

AHEAD: Final = 1
"""Jobs queued per engine behind the one that runs (layerwise.md: 1 or 2)."""
PIECE_BYTES: Final = 4 << 20
"""Of a copy of weights: some 0.1 ms, more than what starting one costs by far."""


@dataclass(slots=True, kw_only=True)
class _CudaNetwork:
    """`memory`: all units in pinned memory; `host`: per unit its part; `resident`: per kept unit its bytes on the
    device."""

    network: TorchUnits
    memory: torch.Tensor
    host: list[torch.Tensor]
    resident: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class _Staged:
    """Of one batch: what must stay as long as something that was queued may use it."""

    arrived: Any
    """Event: the inputs are on the device."""
    buffers: list[torch.Tensor] = field(default_factory=list)
    inputs: list[torch.Tensor] = field(default_factory=list)
    answered: Any = None
    """Event: the outputs are in `answer`."""
    answer: State = field(default_factory=list)


@dataclass(slots=True)
class _JobEvents:
    """Of one job: start and end of each run of copies without a pause, and of its compute."""

    copies: list[tuple[Any, Any]] = field(default_factory=list)
    compute_start: Any = None
    compute_end: Any = None


class CudaAccelerator:
    """`budget_bytes` bounds the arena; resident units come on top. Networks are torch's."""

    chained = True

    def __init__(
        self,
        budget_bytes: int,
        driver: CudaDriver | None = None,
        ahead: int = AHEAD,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self.driver = driver = driver or TorchCuda()
        self._arena = driver.arena(budget_bytes // PAGE * PAGE)
        self.ring = Ring(self._arena.capacity, mirrored=self._arena.mirrored)
        self.piece_bytes = piece_bytes
        self.copy_stream, self.compute_stream = driver.stream(), driver.stream()
        self._input_stream, self._answer_stream = driver.stream(), driver.stream()
        self._buffers = StagingBuffers(driver)
        self.clock = EventClock(*self._anchor())
        self.memory = _CopyEngine(self, ahead)
        self.compute = _KernelEngine(self, ahead)
        self._loaded: dict[str, _CudaNetwork] = {}

    @property
    def arena(self) -> torch.Tensor:
        """Its bytes on the device, twice in a row where it is mirrored."""
        return self._arena.memory

    def add(self, name: str, network: Network) -> None:
        """Read its units into pinned memory. Raises LoadError where that cannot be had."""
        assert isinstance(network, TorchUnits), "the device runs torch's graphs"
        units = network.index.units
        memory = self.driver.pinned(network.index.weight_bytes)
        host = [memory[unit.offset : unit.offset + unit.size] for unit in units]
        reader = UnitReader(network.folder)
        try:
            for unit, part in zip(units, host, strict=True):
                reader.read(unit, part.numpy())
        except BaseException:
            self.driver.unpin(memory)
            raise
        finally:
            reader.close()
        self._loaded[name] = _CudaNetwork(network=network, memory=memory, host=host)

    def keep(self, name: str, positions: frozenset[int]) -> None:
        """Hold these of its units on the device (and no others); batches that have begun keep what there was."""
        loaded = self._loaded[name]
        before, new = loaded.resident, positions - loaded.resident.keys()
        brought = {position: loaded.host[position].to(self.driver.device) for position in sorted(new)}
        loaded.resident = {**{position: before[position] for position in positions - new}, **brought}

    def remove(self, name: str) -> None:
        """Remove a network; none of its batches may be in flight."""
        loaded = self._loaded.pop(name)
        loaded.network.close()
        loaded.resident = {}
        self.driver.unpin(loaded.memory)

    def close(self) -> None:
        """Remove all networks and free the arena."""
        self.driver.synchronize()
        for name in list(self._loaded):
            self.remove(name)
        self._buffers.close()
        self._arena.close()

    def forget(self) -> None:
        """The arena stays: what runs next would wait for new memory."""

    @contextmanager
    def fetch_probe(self) -> Iterator[Callable[[int, int], float]]:
        """Copies from pinned memory, by the device's clock."""
        host = self.driver.pinned(PROBE_BYTES)
        slot = torch.empty_like(host, device=self.driver.device)

        def fetch(size: int, at: int) -> float:
            part, source = slot[at : at + size], host[at : at + size]
            return timed(self.driver, self.copy_stream, "copy in", lambda: part.copy_(source, non_blocking=True))

        try:
            yield fetch
        finally:
            self.driver.synchronize()
            self.driver.unpin(host)

    def network(self, name: str) -> TorchUnits:
        return self._loaded[name].network

    def begin(self, batch: LayerwiseBatch) -> None:
        """Inputs go to the device on a stream of their own; the first unit waits for them there."""
        staged = _Staged(arrived=self.driver.event())
        batch.staged = staged
        network = self._loaded[batch.model].network
        batch.kept = self._loaded[batch.model].resident
        try:
            batch.state = network.begin(batch.inputs, batch.rows, lambda array: self._brought(array, staged))
        finally:
            staged.arrived.record(self._input_stream)
            if batch.state is None:
                self.release(batch)

    def _brought(self, array: Array, staged: _Staged) -> torch.Tensor:
        """Through pinned memory, so that the host need not wait."""
        buffer = self._buffers.take(max(1, array.nbytes))
        staged.buffers.append(buffer)
        place = buffer.numpy()[: array.nbytes].view(array.dtype).reshape(array.shape)
        np.copyto(place, array)
        host = tensor_of(place)
        held = torch.empty_like(host, device=self.driver.device)
        staged.inputs.append(held)
        self.driver.queue(self._input_stream, "copy in", lambda: held.copy_(host, non_blocking=True))
        return held

    def on_device(self, name: str) -> list[torch.Tensor]:
        """All weights of a network, copied now, in memory of their own beyond the arena (to compare with)."""
        weights = [host.to(self.driver.device, non_blocking=True) for host in self._loaded[name].host]
        self.driver.synchronize()
        return weights

    def end(self, batch: LayerwiseBatch) -> Mapping[str, Array]:
        """The outputs, copied back behind the last unit and nothing else."""
        staged = _staged(batch)
        staged.answered.synchronize()
        return self._loaded[batch.model].network.end(staged.answer, batch.rows)

    def release(self, batch: LayerwiseBatch) -> None:
        """As Accelerator.release."""
        if batch.staged is None:
            return
        staged, batch.staged = _staged(batch), None
        staged.arrived.synchronize()
        if staged.answered is not None:
            staged.answered.synchronize()
        for buffer in staged.buffers:
            self._buffers.give_back(buffer)

    def copy(self, job: UnitJob) -> None:
        """Queue the copy of what has room of a unit, behind the compute that last used that room."""
        job.events = events = job.events or _JobEvents()
        assert isinstance(events, _JobEvents)
        loaded, stream = self._loaded[job.batch.model], self.copy_stream
        if job.behind is not None:
            stream.wait_event(_events(job.behind).compute_end)
        start = self._recorded(stream)
        if job.bytes and job.batch.error is None:
            host = loaded.host[job.position]
            slot = self.arena[job.offset : job.offset + job.bytes]
            for begin in range(job.started, job.placed, self.piece_bytes):
                end = min(begin + self.piece_bytes, job.placed)
                self._queue_copy(slot[begin:end], host[begin:end])
        events.copies.append((start, self._recorded(stream)))

    def _queue_copy(self, slot: torch.Tensor, host: torch.Tensor) -> None:
        self.driver.queue(self.copy_stream, "copy in", lambda: slot.copy_(host, non_blocking=True))

    def run(self, job: UnitJob) -> None:
        """Queue a unit's kernels behind its copy, and behind the last unit the copy of the outputs."""
        events, stream, batch = _events(job), self.compute_stream, job.batch
        if batch.error is None and job.position == 0:
            stream.wait_event(_staged(batch).arrived)
        stream.wait_event(events.copies[-1][1])
        # Behind the waits: what the unit waits for its weights is idle time (IC), not compute.
        events.compute_start = self._recorded(stream)
        try:
            if batch.error is None:
                self._launch(job)
        except torch.OutOfMemoryError as error:
            job.error = OutOfDeviceMemoryError(str(error))
        except Exception as error:
            job.error = error
        # Also after an error: kernels may have been queued before it, and the place is free only behind them.
        events.compute_end = self._recorded(stream)
        if job.last and batch.error is None and job.error is None:
            self._queue_answer(job)

    def _launch(self, job: UnitJob) -> None:
        loaded, state = self._loaded[job.batch.model], job.batch.state
        network = loaded.network
        kept = None if job.bytes else job.batch.kept.get(job.position)
        memory = self.arena[job.offset : job.offset + job.bytes] if kept is None else kept
        tensors = views(memory, network.index.units[job.position].pieces)

        def work() -> None:
            for values in state:
                run_unit(network.graphs[job.position], tensors, values)

        self.driver.queue(self.compute_stream, "compute", work)

    def _queue_answer(self, job: UnitJob) -> None:
        staged, state, stream = _staged(job.batch), job.batch.state, self._answer_stream
        gives = self._loaded[job.batch.model].network.gives

        def work() -> None:
            staged.answer = [{name: self._brought_back(values[name], staged) for name in gives} for values in state]

        staged.answered = self.driver.event()
        stream.wait_event(_events(job).compute_end)
        try:
            self.driver.queue(stream, "copy out", work)
        except Exception as error:
            job.error = error
        staged.answered.record(stream)

    def _brought_back(self, value: torch.Tensor, staged: _Staged) -> torch.Tensor:
        size = value.numel() * value.element_size()
        buffer = self._buffers.take(max(1, size))
        staged.buffers.append(buffer)
        host = buffer[:size].view(value.dtype).view(value.shape)
        host.copy_(value, non_blocking=True)
        return host

    def measured(self, name: str, rows: int, effort: Effort) -> Profile:
        """The profile on disk, else a new one from device events."""
        loaded = self._loaded[name]
        network = loaded.network
        known = read_profile(network.folder, self.driver.name, rows)
        if known is not None and effort.takes(known, network.index.digest):
            return known
        batch = LayerwiseBatch(
            model=name, inputs=example_inputs(network.inputs, rows), rows=rows, layers=(), settled=lambda _batch: None
        )
        self.begin(batch)
        _staged(batch).arrived.synchronize()
        profiler = CudaProfiler(self.driver, (self.copy_stream, self.compute_stream), network, loaded.host)
        profile = profiler.profile(batch.state, rows, effort)
        self.release(batch)
        write_profile(network.folder, profile)
        return profile

    def _recorded(self, stream: Any) -> Any:
        event = self.driver.event()
        event.record(stream)
        return event

    def _anchor(self) -> tuple[Any, float]:
        self.driver.synchronize()
        event = self._recorded(self.copy_stream)
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
        copies = _events(job).copies
        copies[-1][1].synchronize()
        now, clock = time.monotonic(), self._device.clock
        job.fetch_s = sum(float(start.elapsed_time(end)) for start, end in copies) / 1e3
        return Interval(clock.at(copies[0][0]), clock.ended(copies[-1][1], now))


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


def _events(job: UnitJob) -> _JobEvents:
    events = job.events
    assert isinstance(events, _JobEvents), "a job is copied before it runs"
    return events


def _staged(batch: LayerwiseBatch) -> _Staged:
    staged = batch.staged
    assert isinstance(staged, _Staged), "a batch is staged before it runs"
    return staged
