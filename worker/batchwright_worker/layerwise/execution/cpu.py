"""The CPU as an accelerator: a reader brings weights from files into a bounded pool, compute threads run the units."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from batchwright_worker.inference.requests import Array
from batchwright_worker.layerwise.execution.jobs import Interval, LayerwiseBatch, UnitJob
from batchwright_worker.layerwise.memory.pool import Pool, Reads, UnitReader, page_aligned, read_all
from batchwright_worker.layerwise.memory.ring import Ring
from batchwright_worker.layerwise.networks.prepared_cache import PROBE_PREFIX
from batchwright_worker.layerwise.networks.units import PAGE, WEIGHTS_FILE, Bytes, Network, Unit
from batchwright_worker.layerwise.profiling.fetch_floor import PROBE_BYTES
from batchwright_worker.layerwise.profiling.profiles import cache_folder

__all__ = ["CpuAccelerator"]

PIECE_BYTES: Final = 1 << 20
"""Of a fetch that pauses for room, at most: a read of that size takes as long per byte as a longer one."""
PIECES: Final = 32
"""And at least so many fill the memory."""


@dataclass(slots=True, kw_only=True)
class _CpuNetwork:
    """A network that can run here; `resident`: the memory of units that stay."""

    network: Network
    reader: UnitReader
    resident: Mapping[int, Bytes | None] = field(default_factory=dict)


class CpuAccelerator:
    """`budget_bytes` (rounded down to whole pages) bounds the weights in flight; resident units come on top."""

    chained = False

    def __init__(self, budget_bytes: int, reads: Reads = "cached") -> None:
        self.pool = Pool(budget_bytes // PAGE * PAGE)
        self.ring = Ring(self.pool.capacity)
        self.piece_bytes = min(PIECE_BYTES, max(PAGE, self.pool.capacity // PIECES // PAGE * PAGE))
        self.memory = _ReadEngine(self)
        self.compute = _ComputeEngine(self)
        self._reads: Reads = reads
        self._loaded: dict[str, _CpuNetwork] = {}

    def add(self, name: str, network: Network) -> None:
        """Let it run here under this name."""
        reader = UnitReader(network.folder, self._reads)
        self._loaded[name] = _CpuNetwork(network=network, reader=reader)

    def keep(self, name: str, positions: frozenset[int]) -> None:
        """Keep these of its units in memory (and no others); batches that have begun keep what there was."""
        loaded = self._loaded[name]
        before, missing = loaded.resident, sorted(positions - loaded.resident.keys())
        read = read_all(loaded.reader, [loaded.network.index.units[position] for position in missing])
        new = dict(zip(missing, read, strict=True))
        loaded.resident = {position: new.get(position, before.get(position)) for position in sorted(positions)}

    def remove(self, name: str) -> None:
        """Remove a network; none of its batches may be in flight."""
        loaded = self._loaded.pop(name)
        loaded.reader.close()
        loaded.network.close()

    def close(self) -> None:
        """Remove all networks and free the pool."""
        for name in list(self._loaded):
            self.remove(name)
        self.pool.close()

    def forget(self) -> None:
        """Give the pool's pages back until they are used again; no unit may be in flight."""
        self.pool.forget()

    @contextmanager
    def fetch_probe(self) -> Iterator[Callable[[int, int], float]]:
        """Reads of a file that lies where prepared networks do."""
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PROBE_PREFIX, dir=cache_folder()) as name:
            memory = page_aligned(PROBE_BYTES)
            (Path(name) / WEIGHTS_FILE).write_bytes(memory.tobytes())
            reader = UnitReader(Path(name), self._reads)

            def fetch(size: int, at: int) -> float:
                begin = time.perf_counter()
                reader.read(Unit(name="probe", offset=at, size=size, pieces=[]), memory[at : at + size])
                return time.perf_counter() - begin

            try:
                yield fetch
            finally:
                reader.close()

    def network(self, name: str) -> Network:
        return self._loaded[name].network

    def reader(self, name: str) -> UnitReader:
        return self._loaded[name].reader

    def begin(self, batch: LayerwiseBatch) -> None:
        """As Accelerator.begin."""
        loaded = self._loaded[batch.model]
        batch.kept = loaded.resident
        batch.state = loaded.network.begin(batch.inputs, batch.rows)

    def end(self, batch: LayerwiseBatch) -> Mapping[str, Array]:
        """As Accelerator.end."""
        return self._loaded[batch.model].network.end(batch.state, batch.rows)

    def release(self, batch: LayerwiseBatch) -> None:
        """As Accelerator.release."""

    def fetch(self, job: UnitJob) -> None:
        """Read what has room of a unit to its place; a resident one is there."""
        loaded = self._loaded[job.batch.model]
        if job.bytes:
            unit = loaded.network.index.units[job.position]
            loaded.reader.read(unit, self.pool.view(job.offset, unit.size), job.started, job.placed)

    def run(self, job: UnitJob) -> None:
        """Run a unit on its weights."""
        loaded = self._loaded[job.batch.model]
        weights = self.pool.view(job.offset, job.bytes) if job.bytes else job.batch.kept.get(job.position)
        loaded.network.compute(job.position, self.pool.view(0, 0) if weights is None else weights, job.batch.state)


class _ReadEngine:
    """The memory engine: reads on the executor's thread, one unit at a time."""

    ahead = 0

    def __init__(self, device: CpuAccelerator) -> None:
        self._device = device
        self._reads: list[Interval] = []
        """Of the unit that is being read."""

    def start(self, job: UnitJob) -> None:
        start = time.monotonic()
        if job.works:
            try:
                self._device.fetch(job)
            except Exception as error:
                job.error = error
        self._reads.append(Interval(start, time.monotonic()))

    def finish(self, job: UnitJob) -> Interval:
        reads, self._reads = self._reads, []
        job.fetch_s = sum(each.end - each.start for each in reads)
        return Interval(reads[0].start, reads[-1].end)


class _ComputeEngine:
    """The compute engine: runs on the executor's thread, which the library's own threads help."""

    ahead = 0

    def __init__(self, device: CpuAccelerator) -> None:
        self._device = device

    def start(self, job: UnitJob) -> None:
        """The work is done in `finish`."""

    def finish(self, job: UnitJob) -> Interval:
        start = time.monotonic()
        if job.works:
            try:
                self._device.run(job)
            except Exception as error:
                job.error = error
        return Interval(start, time.monotonic())
