"""The memory on a GPU that weights in flight lie in: allocated once, mapped twice in a row where the driver can.

Mapped twice, as the CPU's pool is, a unit may run over the end: the ring wastes nothing there, and the room that it has
is the room that the timeline reckons with. It takes CUDA's calls for virtual memory (cuda-bindings, which comes with
torch): physical memory is made once, an address range of twice its size is reserved, and both halves are mapped to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

__all__ = ["Arena", "ArenaRefused", "MirroredArena", "PlainArena"]


class ArenaRefused(RuntimeError):  # noqa: N818
    """This driver cannot map memory twice, and why."""


class Arena(Protocol):
    """`memory`: its bytes, twice in a row where it is `mirrored`; `capacity`: how many can be used."""

    memory: torch.Tensor
    capacity: int
    mirrored: bool

    def close(self) -> None:
        """Give the memory back. Nothing on the device may use it any more."""


class PlainArena:
    """By torch."""

    mirrored = False

    def __init__(self, size: int, device: torch.device) -> None:
        self.capacity = size
        self.memory = torch.empty(size, dtype=torch.uint8, device=device)

    def close(self) -> None:
        """See `Arena`."""
        self.memory = torch.empty(0, dtype=torch.uint8)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclass(slots=True)
class _CudaArray:
    """A range of device memory as `torch.as_tensor` takes it."""

    address: int
    size: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": (self.size,), "typestr": "|u1", "data": (self.address, False), "version": 3}


class MirroredArena:
    """By the driver; its size is rounded down to what the driver maps at a time (2 MiB). Raises ArenaRefused."""

    mirrored = True

    def __init__(self, size: int, device: torch.device, driver: Any = None) -> None:
        if driver is None:
            driver = _driver()
            torch.cuda.current_stream(device).synchronize()  # makes the device's context current
        self._driver = driver
        self._address = self._handle = self._mapped = 0
        properties = driver.CUmemAllocationProp()
        properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        properties.location.id = device.index or 0
        least = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        granularity = int(self._call("cuMemGetAllocationGranularity", properties, least))
        self.capacity = size // granularity * granularity
        if not self.capacity:
            raise ArenaRefused(f"{size} bytes are less than the {granularity} that the driver maps at a time")
        try:
            self._map(properties)
            self.memory = torch.as_tensor(_CudaArray(int(self._address), 2 * self.capacity), device=device)
        except BaseException:
            self.close()
            raise

    def _map(self, properties: Any) -> None:
        driver, capacity = self._driver, self.capacity
        self._handle = self._call("cuMemCreate", capacity, properties, 0)
        self._address = self._call("cuMemAddressReserve", 2 * capacity, 0, 0, 0)
        for half in range(2):
            self._call("cuMemMap", int(self._address) + half * capacity, capacity, 0, self._handle, 0)
            self._mapped += 1
        access = driver.CUmemAccessDesc()
        access.location = properties.location
        access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        self._call("cuMemSetAccess", self._address, 2 * capacity, [access], 1)

    def close(self) -> None:
        """See `Arena`."""
        self.memory = torch.empty(0, dtype=torch.uint8)
        if self._mapped:
            self._call("cuMemUnmap", self._address, self._mapped * self.capacity)
        if self._address:
            self._call("cuMemAddressFree", self._address, 2 * self.capacity)
        if self._handle:
            self._call("cuMemRelease", self._handle)
        self._address = self._handle = self._mapped = 0

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._driver, name)(*arguments)
        if int(code):
            raise ArenaRefused(f"{name}: {getattr(code, 'name', code)}")
        return values[0] if values else None


def _driver() -> Any:
    try:
        from cuda.bindings import driver  # type: ignore[import-untyped]
    except ImportError as error:
        raise ArenaRefused("cuda-bindings is not installed") from error
    return driver
