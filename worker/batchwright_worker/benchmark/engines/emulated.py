"""The emulated accelerator's own formula: a batch of n images sleeps fixed + n * perRow, alone on its device."""

from __future__ import annotations

import os
import threading
import time

import msgspec

from batchwright_worker.api.messages import BenchmarkResult, DeviceInfo, EmulatedDevice
from batchwright_worker.api.names import ENV_DEVICES, ENV_EMULATED_DEVICE, KIND_EMULATED
from batchwright_worker.benchmark.engines.base import BatchTooLarge, BenchmarkError, timed_together

BYTES_PER_IMAGE = 8 << 20
"""What the reference model is said to hold for an image of a running batch."""


class EmulatedEngine:
    """Implements Engine."""

    def __init__(self, device: EmulatedDevice) -> None:
        self._device = device
        self._alone = threading.Lock()

    def about(self) -> BenchmarkResult:
        """The formula stands for the product."""
        device = self._device
        return BenchmarkResult(
            kind=KIND_EMULATED,
            product=f"emulated {device.fixed_microseconds}+{device.per_row_microseconds}n us",
            runtime_version="emulated",
            devices=[
                DeviceInfo(id=str(index), memory_bytes=device.memory_bytes)
                for index in range(int(os.environ.get(ENV_DEVICES, "") or 1))
            ],
        )

    def fits(self, batch: int, services: int) -> bool:
        """By BYTES_PER_IMAGE; only one batch runs at a time."""
        return batch * BYTES_PER_IMAGE <= self._device.memory_bytes

    def holds(self, batch: int, services: int) -> bool:
        """What fits is what the device holds."""
        return self.fits(batch, services)

    def run(self, batch: int, runs: int) -> float:
        """Really sleeps: the benchmark takes the time that it reports."""
        if not self.fits(batch, 1):
            raise BatchTooLarge(f"{batch} images need {batch * BYTES_PER_IMAGE} bytes of {self._device.memory_bytes}")
        return timed_together(1, lambda: self._batches(batch, runs))

    def run_services(self, batch: int, services: int, runs: int) -> float:
        """Threads that take turns on the device."""
        return timed_together(services, lambda: self._batches(batch, runs))

    def _batches(self, batch: int, runs: int) -> None:
        seconds = (self._device.fixed_microseconds + batch * self._device.per_row_microseconds) / 1e6
        for _ in range(runs):
            with self._alone:
                end = time.perf_counter() + seconds
                while (rest := end - time.perf_counter()) > 0:
                    time.sleep(rest)


def engine() -> EmulatedEngine:
    """Of the device that ENV_EMULATED_DEVICE describes, the default one if it is not set. Raises BenchmarkError."""
    text = os.environ.get(ENV_EMULATED_DEVICE, "")
    try:
        return EmulatedEngine(msgspec.json.decode(text, type=EmulatedDevice) if text else EmulatedDevice())
    except msgspec.DecodeError as error:
        raise BenchmarkError(
            f"{ENV_EMULATED_DEVICE} is {text!r}: {error}; write e.g. "
            '{"fixedMicroseconds": 10000, "perRowMicroseconds": 2000, "memoryBytes": 1073741824}'
        ) from error
