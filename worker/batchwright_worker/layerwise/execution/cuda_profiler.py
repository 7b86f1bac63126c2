"""Measures a network on the CUDA device unit by unit, by device events."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from batchwright_worker.layerwise.execution.cuda_driver import CudaDriver, DeviceEngineName
from batchwright_worker.layerwise.networks.torch import TorchUnits, run_unit, views
from batchwright_worker.layerwise.networks.units import State
from batchwright_worker.layerwise.profiling.profiler import Effort
from batchwright_worker.layerwise.profiling.profiles import Profile, fit_fetch

__all__ = ["CudaProfiler", "timed"]


class CudaProfiler:
    """Alone on the device, each unit's weights in memory of their own meanwhile: those of other models may be in flight
    in the arena. `host`: per unit its bytes in pinned memory; `streams`: of copies, and of compute."""

    def __init__(
        self, driver: CudaDriver, streams: tuple[Any, Any], network: TorchUnits, host: Sequence[torch.Tensor]
    ) -> None:
        self._driver, self._streams, self._network, self._host = driver, streams, network, host

    def profile(self, state: State, rows: int, effort: Effort) -> Profile:
        """From a batch of `rows` before its first unit, on the device."""
        index = self._network.index
        copies = [self._copy_s(host) for host in self._host if host.numel()]
        sizes = [unit.size for unit in index.units if unit.size]
        latency_s, bytes_per_second = fit_fetch(sizes, copies) if sizes else (0.0, 1e12)
        return Profile(
            digest=index.digest,
            model=index.model,
            processor=self._driver.name,
            rows=rows,
            compute_s=self._compute_s(state, effort.runs),
            bytes=[unit.size for unit in index.units],
            latency_s=latency_s,
            bytes_per_second=bytes_per_second,
            runs=effort.runs,
        )

    def _copy_s(self, host: torch.Tensor) -> float:
        """Median of five copies."""
        slot = torch.empty_like(host, device=self._driver.device)
        copy_stream, _ = self._streams
        return statistics.median(
            timed(self._driver, copy_stream, "copy in", lambda: slot.copy_(host, non_blocking=True)) for _ in range(5)
        )

    def _compute_s(self, state: State, runs: int) -> list[float]:
        network, medians = self._network, []
        _, compute_stream = self._streams
        for position, host in enumerate(self._host):
            tensors = views(host.to(self._driver.device), network.index.units[position].pieces)
            times: deque[float] = deque()
            for _ in range(runs + 1):
                trial = [dict(values) for values in state]

                def work(trial: State = trial, position: int = position, tensors: Any = tensors) -> None:
                    for values in trial:
                        run_unit(network.graphs[position], tensors, values)

                times.append(timed(self._driver, compute_stream, "compute", work))
            times.popleft()  # whatever the library sets up
            medians.append(statistics.median(times))
            state = trial
        return medians


def timed(driver: CudaDriver, stream: Any, engine: DeviceEngineName, work: Callable[[], object]) -> float:
    """Device seconds of what `work` queues on the stream."""
    start, end = driver.event(), driver.event()
    start.record(stream)
    driver.queue(stream, engine, work)
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end) / 1e3)
