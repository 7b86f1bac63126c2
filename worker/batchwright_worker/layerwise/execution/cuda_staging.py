"""Pinned host memory that inputs and outputs pass through, kept from batch to batch: pinning takes the driver as long
as a batch, and stops the device meanwhile."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Final

import torch

from batchwright_worker.layerwise.execution.cuda_driver import CudaDriver

__all__ = ["StagingBuffers"]

_LEAST: Final = 1 << 12


class StagingBuffers:
    """Buffers by size class (powers of two). Thread-safe."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._free: defaultdict[int, list[torch.Tensor]] = defaultdict(list)
        self._all: list[torch.Tensor] = []

    def take(self, size: int) -> torch.Tensor:
        """At least `size` bytes, for the caller alone until they are given back."""
        kind = max(_LEAST, 1 << (size - 1).bit_length())
        with self._lock:
            if self._free[kind]:
                return self._free[kind].pop()
        memory = self._driver.pinned(kind)
        with self._lock:
            self._all.append(memory)
        return memory

    def give_back(self, memory: torch.Tensor) -> None:
        """No copy from or to it may be under way."""
        with self._lock:
            self._free[memory.numel()].append(memory)

    def close(self) -> None:
        """Give all memory back, taken or not."""
        with self._lock:
            for memory in self._all:
                self._driver.unpin(memory)
            self._all.clear()
            self._free.clear()
