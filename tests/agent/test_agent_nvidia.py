"""NVIDIA readings over a stand-in for NVML (the library needs a driver): whole GPUs, MIG instances, lost devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from batchwright_worker.agent.exposition import exposition, text
from batchwright_worker.agent.nvidia import NvidiaSource, find_source


@dataclass
class Gpu:
    name: str
    uuid: str
    used: int = 0
    total: int = 100
    busy: int | None = 0
    """None: not supported."""
    instances: list[Gpu | None] = field(default_factory=list)
    lost: bool = False


class NvmlError(Exception):
    pass


class Nvml:
    """The functions of pynvml that the agent calls, over a list of Gpu."""

    NVMLError = NvmlError

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = gpus

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        if self.gpus[index].lost:
            raise NvmlError("GPU is lost")
        return self.gpus[index]

    def nvmlDeviceGetMigMode(self, gpu: Gpu) -> tuple[int, int]:
        if gpu.name == "old":
            raise NvmlError("not supported")
        return (int(bool(gpu.instances)), 0)

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: Gpu) -> int:
        return len(gpu.instances)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: Gpu, index: int) -> Gpu:
        instance = gpu.instances[index]
        if instance is None:
            raise NvmlError("not found")
        return instance

    def nvmlDeviceGetName(self, gpu: Gpu) -> str:
        return gpu.name

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> Any:
        return SimpleNamespace(used=gpu.used, total=gpu.total)

    def nvmlDeviceGetUtilizationRates(self, gpu: Gpu) -> Any:
        if gpu.busy is None:
            raise NvmlError("not supported")
        return SimpleNamespace(gpu=gpu.busy)


def read(*gpus: Gpu) -> list[tuple[str, str, float | None, float | None]]:
    readings = NvidiaSource(Nvml(*gpus), clock=lambda: 5.0).read()
    return [(each.kind, each.device, each.utilization, each.memory_utilization) for each in readings]


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ([Gpu("H200", "GPU-1", used=25, busy=40)], [("nvidia.com/gpu", "GPU-1", 0.4, 0.25)]),
        ([Gpu("old", "GPU-1", busy=100)], [("nvidia.com/gpu", "GPU-1", 1.0, 0.0)]),
        ([Gpu("H200", "GPU-1", lost=True), Gpu("H200", "GPU-2")], [("nvidia.com/gpu", "GPU-2", 0.0, 0.0)]),
        (
            [Gpu("A100", "GPU-1", instances=[Gpu("A100 MIG 1g.5gb", "MIG-1", used=50, busy=None), None])],
            [("nvidia.com/mig-1g.5gb", "MIG-1", None, 0.5)],
        ),
        ([], []),
    ],
    ids=["whole", "no MIG", "lost", "MIG", "none"],
)
def test_devices(gpus: list[Gpu], expected: list[object]) -> None:
    assert read(*gpus) == expected


def test_what_a_device_does_not_tell_is_absent_never_zero() -> None:
    mig = Gpu("A100", "GPU-1", instances=[Gpu("A100 MIG 1g.5gb", "MIG-1", used=50, busy=None)])
    scrape = text(exposition("n", [NvidiaSource(Nvml(mig))])).decode()
    assert 'utilization_ratio{device="MIG-1"' not in scrape.replace("memory_utilization_ratio", "")
    assert (
        'batchwright_processor_memory_utilization_ratio{device="MIG-1",kind="nvidia.com/mig-1g.5gb",node="n"} 0.5'
        in scrape
    )


def test_without_a_driver_there_is_no_such_kind() -> None:
    found = find_source()
    if found is not None:
        assert found.read()  # this machine has one: then it reads
