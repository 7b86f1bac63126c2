"""What the CUDA device asks of CUDA: streams, events, work on streams, pinned memory, the arena. Torch does the work.

`CudaDriver` is the seam at which a stand-in with FIFO streams, events and one copy engine per direction takes a GPU's
place in the suite (`e2e/bench/gpu/stand_in.py`): it runs what is queued when a GPU would, not when it is queued.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch

from batchwright_worker.backends.base import LoadError
from batchwright_worker.layerwise.execution.cuda_arena import Arena, ArenaRefused, MirroredArena, PlainArena
from batchwright_worker.layerwise.memory.pool import page_aligned

__all__ = ["CudaDriver", "DeviceEngineName", "TorchCuda"]

_LOG = logging.getLogger(__name__)

DeviceEngineName = Literal["copy in", "copy out", "compute"]
"""What of the device a piece of work occupies."""


class CudaDriver(Protocol):
    """A device and its host memory."""

    @property
    def device(self) -> torch.device:
        """Where its tensors lie."""

    @property
    def name(self) -> str:
        """Of the processor, as profiles are kept by."""

    def stream(self) -> Any:
        """Work in order; as torch.cuda.Stream (`wait_event`)."""

    def event(self) -> Any:
        """With timing; as torch.cuda.Event (`record`, `synchronize`, `elapsed_time`)."""

    def queue(self, stream: Any, engine: DeviceEngineName, work: Callable[[], object]) -> None:
        """Queue work on a stream. Raises what shows already when it is queued."""

    def pinned(self, size: int) -> torch.Tensor:
        """New host memory of exactly so many bytes that the device copies from and to by itself. Raises LoadError."""

    def unpin(self, memory: torch.Tensor) -> None:
        """Give it back; nothing may be copied from or to it any more."""

    def arena(self, size: int) -> Arena:
        """Memory on the device for weights in flight."""

    def synchronize(self) -> None:
        """Until all that was queued has ended."""


class TorchCuda:
    """A GPU, by torch."""

    def __init__(self, device: str = "cuda:0") -> None:
        self.device = torch.device(device)

    @property
    def name(self) -> str:
        """See `CudaDriver`."""
        return str(torch.cuda.get_device_name(self.device))

    def stream(self) -> Any:
        """See `CudaDriver`."""
        return torch.cuda.Stream(self.device)

    def event(self) -> Any:
        """See `CudaDriver`."""
        return torch.cuda.Event(enable_timing=True)

    def queue(self, stream: Any, engine: DeviceEngineName, work: Callable[[], object]) -> None:
        """See `CudaDriver`."""
        with torch.cuda.stream(stream), torch.inference_mode():
            work()

    def pinned(self, size: int) -> torch.Tensor:
        """See `CudaDriver`. Not by torch's allocator, which rounds up to a power of two and never gives memory back."""
        memory = torch.from_numpy(page_aligned(size))
        if size and int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), size, 0)):
            raise LoadError(f"the driver cannot pin {size} bytes of host memory: less of it is free, or may be locked")
        return memory

    def unpin(self, memory: torch.Tensor) -> None:
        """See `CudaDriver`."""
        if memory.numel():
            torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())

    def arena(self, size: int) -> Arena:
        """See `CudaDriver`. Mapped twice in a row where the driver can."""
        try:
            return MirroredArena(size, self.device)
        except ArenaRefused as refused:
            _LOG.warning("the memory for weights in flight is not mapped twice, so its end is wasted: %s", refused)
            return PlainArena(size, self.device)

    def synchronize(self) -> None:
        """See `CudaDriver`."""
        torch.cuda.synchronize(self.device)
