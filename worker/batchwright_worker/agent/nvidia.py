"""NVIDIA GPUs and their MIG instances, by NVML."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from batchwright_worker.agent.readings import DeviceReading, share
from batchwright_worker.api.accelerators import NVIDIA

_MIG_PROFILE = re.compile(r"MIG (\S+)$")


class NvidiaSource:
    """Implements Source over an initialised NVML (`pynvml`, or a stand-in with its functions)."""

    def __init__(self, nvml: Any, clock: Callable[[], float] = time.time) -> None:
        self._nvml, self._clock = nvml, clock
        self._driver = str(nvml.nvmlSystemGetDriverVersion())

    def read(self) -> Sequence[DeviceReading]:
        """Every GPU; of one that is partitioned, its instances instead."""
        readings: list[DeviceReading] = []
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                gpu = self._nvml.nvmlDeviceGetHandleByIndex(index)
                instances = list(self._instances(gpu))
                readings += [self._reading(each) for each in instances or [gpu]]
            except self._nvml.NVMLError:
                continue  # lost or reset: no reading is better than a wrong one
        return readings

    def _instances(self, gpu: Any) -> Iterator[Any]:
        try:
            current, _ = self._nvml.nvmlDeviceGetMigMode(gpu)
        except self._nvml.NVMLError:
            return
        if not current:
            return
        for index in range(self._nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
            try:
                yield self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)
            except self._nvml.NVMLError:
                continue  # not every slot is taken

    def _reading(self, handle: Any) -> DeviceReading:
        name = str(self._nvml.nvmlDeviceGetName(handle))
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        profile = _MIG_PROFILE.search(name)
        return DeviceReading(
            kind=f"{NVIDIA.partitions}{profile.group(1)}" if profile else NVIDIA.kind,
            device=str(self._nvml.nvmlDeviceGetUUID(handle)),
            utilization=self._utilization(handle),
            memory_utilization=share(float(memory.used), float(memory.total)),
            taken_at=self._clock(),
            memory_bytes=int(memory.total),
            product=name,
            driver=self._driver,
        )

    def _utilization(self, handle: Any) -> float | None:
        """None on MIG instances, where NVML does not support it."""
        try:
            return share(float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu), 100.0)
        except self._nvml.NVMLError:
            return None


def find_source() -> NvidiaSource | None:
    """The source, or None without a driver (NVML's library is part of it)."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return NvidiaSource(pynvml)
    except pynvml.NVMLError:
        return None
