"""How a runtime reaches the devices of each kind: their memory, and what the libraries call them.

A new vendor whose devices run models is an entry here, and a row in `api/accelerators`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from batchwright_worker.api.accelerators import NVIDIA, vendor_of
from batchwright_worker.api.names import KIND_CPU, KIND_EMULATED
from batchwright_worker.host.memory import EmulatedMemory, EmulatedMeter, HostMeter, Meter, memory_budget_bytes
from batchwright_worker.host.nvidia import NvidiaMeter


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAccelerator:
    """One kind of accelerator as a process on its machine sees it: the first visible device."""

    meter: Callable[[EmulatedMemory], Meter]
    """Opens the meter of its memory; the emulated device's memory is of interest to that device alone."""
    visible_env: str = ""
    """Environment variable that names the devices which a process may see; empty: there is none."""
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
        visible_env="CUDA_VISIBLE_DEVICES",
        torch_device="cuda:0",
        onnx_provider="CUDAExecutionProvider",
        onnx_package="onnxruntime-gpu",
    ),
}


def accelerator_of(kind: str) -> HostAccelerator | None:
    """The entry of this kind, of the whole device for a partition or a share of one. None: nobody here knows it, and
    to take the CPU for it would be to serve from the wrong device unseen."""
    vendor = vendor_of(kind)
    return ACCELERATORS.get(kind) or (ACCELERATORS.get(vendor.kind) if vendor else None)


def meter_of(kind: str, emulated_memory: EmulatedMemory) -> Meter:
    """The meter of this kind's memory; of one that nobody knows (a script of the user's may), the host's."""
    found = accelerator_of(kind) or ACCELERATORS[KIND_CPU]
    return found.meter(emulated_memory)
