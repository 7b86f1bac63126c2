"""How a runtime reaches the devices of each kind: their memory, and what the libraries call them.

A new vendor whose devices run models is an entry here, and a row in `api/accelerators`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from batchwright_worker.api.accelerators import NVIDIA
from batchwright_worker.api.names import KIND_CPU, KIND_EMULATED
from batchwright_worker.host.memory import EmulatedMemory, EmulatedMeter, HostMeter, Meter, memory_budget_bytes
from batchwright_worker.host.nvidia import NvidiaMeter


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAccelerator:
    """One kind of accelerator as a process on its machine sees it: the first visible device."""

    meter: Callable[[EmulatedMemory], Meter]
    """Opens the meter of its memory; the emulated device's memory is of interest to that device alone."""
    torch_device: str = "cpu"
    onnx_provider: str = ""
    """Execution provider of onnxruntime; empty: the CPU's alone."""
    onnx_package: str = ""
    """Distribution of onnxruntime that has it."""


ACCELERATORS: Final = {
    KIND_CPU: HostAccelerator(meter=lambda _: HostMeter(memory_budget_bytes())),
    KIND_EMULATED: HostAccelerator(meter=EmulatedMeter),
    NVIDIA.kind: HostAccelerator(
        meter=lambda _: NvidiaMeter.visible(),
        torch_device="cuda:0",
        onnx_provider="CUDAExecutionProvider",
        onnx_package="onnxruntime-gpu",
    ),
}


def accelerator_of(kind: str) -> HostAccelerator:
    """The entry of this kind; of one that has none, the CPU's."""
    return ACCELERATORS.get(kind, ACCELERATORS[KIND_CPU])


def meter_of(kind: str, emulated_memory: EmulatedMemory) -> Meter:
    """The meter of this kind's memory."""
    return accelerator_of(kind).meter(emulated_memory)
