"""What of the CUDA device can be shown without a GPU: its clock, its memory's books, and where units make tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from batchwright_worker.backends.base import Host
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.execution.cuda_arena import ArenaRefused, MirroredArena
from batchwright_worker.layerwise.execution.cuda_clock import ANCHOR_S, DRIFT, EventClock
from batchwright_worker.layerwise.memory.ring import Ring
from batchwright_worker.layerwise.networks.split_torch import onto
from batchwright_worker.layerwise.networks.torch import open_torch
from batchwright_worker.layerwise.serving.accelerators import leading
from tests.layerwise.splits import ConvNet, export

pytestmark = pytest.mark.slow


@dataclass
class Happened:
    """An event of a device whose clock counts milliseconds in 32-bit floats, as CUDA's does."""

    at_s: float

    def elapsed_time(self, later: Happened) -> float:
        return float(np.float32((later.at_s - self.at_s) * 1e3))


def test_event_times_stay_exact_over_hours() -> None:
    clock = EventClock(Happened(100.0), 5000.0)
    for second in range(1, 7200):
        assert clock.at(Happened(100.0 + second * 1.7)) == pytest.approx(5000.0 + second * 1.7, abs=2e-4)
    assert ANCHOR_S > 1


@pytest.mark.parametrize("drift", [5e-5, -5e-5])
def test_a_device_whose_clock_drifts_stays_on_the_hosts_clock_for_a_day(drift: float) -> None:
    clock = EventClock(Happened(0.0), 0.0)
    late = 0.0
    for step in range(1, 86_400):
        host = float(step)
        late = (late + 0.37) % 1.0  # what the host sees of an event is late by 20 to 520 microseconds
        found = clock.ended(Happened(host * (1.0 + drift)), host + 2e-5 + 5e-4 * late)
        assert abs(found - host) < 2e-3
    assert abs(drift) < DRIFT


def test_a_host_that_is_late_for_a_while_moves_the_clock_a_little_only() -> None:
    clock = EventClock(Happened(0.0), 0.0)
    for step in range(1, 60):
        clock.ended(Happened(float(step)), step + 0.5)
    assert abs(clock.at(Happened(60.0)) - 60.0) < 60 * 1.1 * DRIFT


def test_an_arena_that_is_not_mirrored_skips_its_end_and_still_takes_the_largest_unit() -> None:
    ring = Ring(10, mirrored=False)
    assert [ring.place(4), ring.place(3)] == [0, 4]
    ring.retire()
    assert not ring.fits(5)
    assert ring.place(4) == 0
    assert ring.used == 10
    ring.retire()
    ring.retire()
    assert ring.fits(10)


class Ramp(torch.nn.Module):
    """Makes a tensor by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x) + torch.arange(8, dtype=torch.float32, device=x.device)


def test_what_a_unit_makes_by_itself_is_made_on_the_device_of_its_weights(tmp_path: Path) -> None:
    path = export(Ramp(), (torch.randn(2, 8),), tmp_path / "net.pt2")
    source = ModelSource(name="net", format="torch-export", path=str(path), inputs=[], outputs=[])
    host = Host(kind="cpu", threads=1, emulated_memory=EmulatedMemory(0))
    [graph] = open_torch(source, host, lambda digest: tmp_path / digest, 1 << 20).graphs
    onto(graph, torch.device("meta"))
    line = Ramp().line
    [found] = graph.module(torch.randn(3, 8, device="meta"), *(weight.to("meta") for weight in line.parameters()))
    assert found.device.type == "meta"
    assert found.shape == (3, 8)


def test_the_first_units_stay_as_far_as_their_share_goes(tmp_path: Path) -> None:
    path = export(ConvNet(), (torch.randn(2, 3, 8, 8),), tmp_path / "net.pt2")
    source = ModelSource(name="net", format="torch-export", path=str(path), inputs=[], outputs=[])
    host = Host(kind="cpu", threads=1, emulated_memory=EmulatedMemory(0))
    network = open_torch(source, host, lambda digest: tmp_path / digest, 1 << 20)
    sizes = [unit.size for unit in network.index.units]
    assert leading(network, 0) == frozenset()
    assert leading(network, sizes[0] + sizes[1]) == {0, 1}
    assert leading(network, sum(sizes)) == set(range(len(sizes)))


class MemoryDriver:
    """CUDA's calls for virtual memory, as far as the arena makes them: what is mapped where. `refuses`: that call."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.mapped: dict[int, int] = {}
        self.reserved: dict[int, int] = {}
        self.handles: set[int] = set()
        self.writable = 0

    CUmemAllocationProp = lambda self: SimpleNamespace(location=SimpleNamespace())  # noqa: E731
    CUmemAccessDesc = SimpleNamespace
    CUmemAllocationType = SimpleNamespace(CU_MEM_ALLOCATION_TYPE_PINNED=1)
    CUmemLocationType = SimpleNamespace(CU_MEM_LOCATION_TYPE_DEVICE=1)
    CUmemAllocationGranularity_flags = SimpleNamespace(CU_MEM_ALLOC_GRANULARITY_MINIMUM=0)
    CUmemAccess_flags = SimpleNamespace(CU_MEM_ACCESS_FLAGS_PROT_READWRITE=3)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            if name == self.refuses:
                return (801, 0)
            return getattr(self, f"do_{name}")(*arguments)

        return call

    def do_cuMemGetAllocationGranularity(self, _properties: Any, _flag: int) -> tuple[int, int]:
        return 0, 2 << 20

    def do_cuMemCreate(self, size: int, _properties: Any, _flags: int) -> tuple[int, int]:
        assert size % (2 << 20) == 0
        self.handles.add(7)
        return 0, 7

    def do_cuMemAddressReserve(self, size: int, *_rest: int) -> tuple[int, int]:
        self.reserved[1 << 30] = size
        return 0, 1 << 30

    def do_cuMemMap(self, address: int, size: int, offset: int, handle: int, _flags: int) -> tuple[int]:
        assert handle in self.handles
        assert offset == 0
        self.mapped[address] = size
        return (0,)

    def do_cuMemSetAccess(self, address: int, size: int, access: Any, count: int) -> tuple[int]:
        assert (len(access), access[0].flags, address) == (count, 3, 1 << 30)
        self.writable = size
        return (0,)

    def do_cuMemUnmap(self, address: int, size: int) -> tuple[int]:
        assert sum(self.mapped.values()) == size
        assert address in self.mapped
        self.mapped.clear()
        return (0,)

    def do_cuMemAddressFree(self, address: int, size: int) -> tuple[int]:
        assert self.reserved.pop(address) == size
        return (0,)

    def do_cuMemRelease(self, handle: int) -> tuple[int]:
        self.handles.remove(handle)
        return (0,)


def test_a_gpus_memory_is_mapped_twice_in_a_row_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """C7: the ring on it is mirrored, so that its room is the timeline's."""
    driver, seen = MemoryDriver(), list[dict[str, Any]]()
    monkeypatch.setattr(
        torch, "as_tensor", lambda array, device: seen.append(array.__cuda_array_interface__) or torch.empty(0)
    )
    arena = MirroredArena(5 << 20, torch.device("cuda", 0), driver)
    assert arena.capacity == 4 << 20
    assert driver.mapped == {1 << 30: 4 << 20, (1 << 30) + (4 << 20): 4 << 20}
    assert driver.writable == 8 << 20
    assert (seen[0]["shape"], seen[0]["data"]) == ((8 << 20,), (1 << 30, False))
    arena.close()
    assert not driver.mapped
    assert not driver.reserved
    assert not driver.handles


@pytest.mark.parametrize("refuses", ["cuMemCreate", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"])
def test_what_was_mapped_is_given_back_when_the_driver_refuses_the_rest(refuses: str) -> None:
    driver = MemoryDriver(refuses)
    with pytest.raises(ArenaRefused, match=refuses):
        MirroredArena(4 << 20, torch.device("cuda", 0), driver)
    assert not driver.mapped
    assert not driver.reserved
    assert not driver.handles


def test_weights_lie_where_a_gpus_libraries_want_them(tmp_path: Path) -> None:
    """C8."""
    path = export(ConvNet(), (torch.randn(2, 3, 8, 8),), tmp_path / "net.pt2")
    source = ModelSource(name="net", format="torch-export", path=str(path), inputs=[], outputs=[])
    host = Host(kind="cpu", threads=1, emulated_memory=EmulatedMemory(0))
    network = open_torch(source, host, lambda digest: tmp_path / digest, 1 << 20)
    assert all(piece.offset % 256 == 0 for unit in network.index.units for piece in unit.pieces)
