"""What of the CUDA device can be shown without a GPU: its clock, its memory's books, and where units make tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from batchwright_worker.backends.base import Host
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.execution.cuda import ANCHOR_S, DRIFT, EventClock
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
