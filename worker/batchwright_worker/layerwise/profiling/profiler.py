"""Measures a network's units on this machine: compute times, fetch times, and what each costs the other (`Profile`)."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from batchwright_worker.host.threads import beside_main
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.layerwise.memory.pool import UnitReader, page_aligned
from batchwright_worker.layerwise.networks.units import Network, State, Unit
from batchwright_worker.layerwise.profiling.profiles import Profile, fit_fetch, read_profile, write_profile
from batchwright_worker.oip.datatypes import numpy_of

__all__ = ["RUNS", "Effort", "example_inputs", "measure", "measured"]

RUNS: Final = 20
"""Each compute time is the median of this many runs, at least."""
MOST_SPREAD: Final = 0.5
"""A profile whose times vary by more than this was disturbed: it is used, and measured anew the next time."""
_VARIABLE: Final = 64
"""What a variable dimension is measured as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """`runs` of every unit; when `seconds` are over, at least `least` of each. `any_profile`: one on disk will do even
    if it was disturbed. `gap` returns before each run when little else runs here."""

    runs: int = RUNS
    least: int = RUNS
    seconds: float = float("inf")
    any_profile: bool = False
    gap: Callable[[], object] = lambda: None

    def takes(self, known: Profile | None, digest: str) -> bool:
        """Need nothing be measured with this profile?"""
        if known is None or known.digest != digest or known.runs < self.least:
            return False
        return self.any_profile or known.spread <= MOST_SPREAD


def measured(network: Network, reader: UnitReader, rows: int, processor: str, effort: Effort) -> Profile:
    """The profile on disk, else a new one, which is kept there."""
    known = read_profile(network.folder, processor, rows)
    if known is not None and effort.takes(known, network.index.digest):
        return known
    profile = measure(network, reader, rows, processor, effort)
    write_profile(network.folder, profile)
    return profile


def measure(network: Network, reader: UnitReader, rows: int, processor: str, effort: Effort) -> Profile:
    """Runs the network on random inputs, unit by unit, first alone and then while the other engine works."""
    return beside_main(_measure, network, reader, rows, processor, effort)


def _measure(network: Network, reader: UnitReader, rows: int, processor: str, effort: Effort) -> Profile:
    units, bench = network.index.units, _UnitTimer(network, reader, rows)
    deadline = time.monotonic() + effort.seconds
    compute_s, runs = bench.compute_times(effort, deadline)
    spread = bench.spread
    sizes = [unit.size for unit in units if unit.size]
    alone = bench.fetch_times()
    latency_s, bytes_per_second = fit_fetch(sizes, alone) if sizes else (0.0, 1e12)
    compute_slowdown = fetch_slowdown = 1.0
    if sizes:
        with _meanwhile(bench.reading()):
            together, _ = bench.compute_times(Effort(runs=3, least=3), deadline)
        compute_slowdown = max(1.0, sum(together) / max(sum(compute_s), 1e-9))
        with _meanwhile(bench.computing()):
            fetch_slowdown = max(1.0, sum(bench.fetch_times()) / max(sum(alone), 1e-9))
    return Profile(
        digest=network.index.digest,
        model=network.index.model,
        processor=processor,
        rows=rows,
        compute_s=compute_s,
        bytes=[unit.size for unit in units],
        latency_s=latency_s,
        bytes_per_second=bytes_per_second,
        compute_slowdown=compute_slowdown,
        fetch_slowdown=fetch_slowdown,
        runs=runs,
        spread=spread,
    )


class _UnitTimer:
    """Memory of its own for one unit that computes and one that is read."""

    def __init__(self, network: Network, reader: UnitReader, rows: int) -> None:
        self._network, self._reader, self._rows = network, reader, rows
        self._units = network.index.units
        self._weights = page_aligned(network.index.largest_bytes)
        self._spare = page_aligned(network.index.largest_bytes)
        self._inputs = example_inputs(network.inputs, rows)
        self.spread = 0.0
        """Of the last `compute_times`: the quartiles' distance over the medians, summed over the units."""

    def compute_times(self, effort: Effort, deadline: float) -> tuple[list[float], int]:
        """Median seconds per unit, and of how many runs at least."""
        state, medians, fewest = self._network.begin(self._inputs, self._rows), [], effort.runs
        distances = 0.0
        for position, unit in enumerate(self._units):
            self._reader.read(unit, self._weights)
            times, state = self._unit_times(position, state, effort, deadline)
            medians.append(statistics.median(times))
            low, high = np.percentile(times, (25, 75))
            distances += high - low
            fewest = min(fewest, len(times))
        self.spread = float(distances / max(sum(medians), 1e-9))
        return medians, fewest

    def fetch_times(self) -> list[float]:
        """Median seconds of three fetches, per unit that has weights."""
        return [statistics.median(self._fetch(unit) for _ in range(3)) for unit in self._units if unit.size]

    def reading(self) -> Callable[[], None]:
        """Work for the memory engine: one unit after the other."""
        units = itertools.cycle([unit for unit in self._units if unit.size])
        return lambda: self._reader.read(next(units), self._spare)

    def computing(self) -> Callable[[], None]:
        """Work for the compute engine: the first unit, which needs no activations but the inputs."""
        unit, network = self._units[0], self._network
        self._reader.read(unit, self._weights)
        return lambda: network.compute(0, self._weights[: unit.size], network.begin(self._inputs, self._rows))

    def _fetch(self, unit: Unit) -> float:
        begin = time.perf_counter()
        self._reader.read(unit, self._spare)
        return time.perf_counter() - begin

    def _unit_times(self, position: int, state: State, effort: Effort, deadline: float) -> tuple[list[float], State]:
        """Seconds of each run, and the state behind the unit. A first run is for whatever the library sets up."""
        times: list[float] = []
        weights, trial = self._weights[: self._units[position].size], state
        for run in range(effort.runs + 1):
            if run > effort.least and time.monotonic() > deadline:
                break
            trial = [dict(values) for values in state]
            effort.gap()
            begin = time.perf_counter()
            self._network.compute(position, weights, trial)
            times.append(time.perf_counter() - begin)
        return times[1:], trial


def example_inputs(specs: Sequence[TensorSpec], rows: int) -> Mapping[str, Array]:
    """Random numbers from a fixed seed; small whole ones where the type is whole, which suit tables of any size."""
    random = np.random.default_rng(11)
    inputs: dict[str, Array] = {}
    for spec in specs:
        shape = (rows, *(_VARIABLE if size < 0 else size for size in spec.shape))
        dtype = numpy_of(spec.datatype)
        values = random.standard_normal(shape) if np.dtype(dtype).kind in "fV" else random.integers(0, 2, shape)
        inputs[spec.name] = values.astype(dtype)
    return inputs


@contextmanager
def _meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Repeats `work` on a thread of its own for as long as the block lasts."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=repeat, name="layerwise profiler", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
