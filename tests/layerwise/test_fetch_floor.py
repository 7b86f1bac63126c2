"""The smallest unit that is worth a fetch of its own, by what a fetch takes here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.backends.base import Host
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.execution.cpu import CpuAccelerator
from batchwright_worker.layerwise.profiling.fetch_floor import (
    LATENCIES,
    PROBE_BYTES,
    FetchFloor,
    fetch_floor,
    measured_floor,
)
from batchwright_worker.layerwise.profiling.profiler import Effort
from batchwright_worker.layerwise.profiling.profiles import ENV_CACHE
from batchwright_worker.layerwise.serving.accelerators import adapter_of
from batchwright_worker.layerwise.serving.settings import LayerwiseSettings
from tests.layerwise.test_split_onnx import conv_net

HOST = Host(kind="cpu", threads=1, emulated_memory=EmulatedMemory(0))


@given(latency=st.floats(1e-6, 5e-3), bandwidth=st.floats(1e8, 1e11))
def test_a_unit_takes_some_latencies_of_a_fetch(latency: float, bandwidth: float) -> None:
    found = measured_floor(lambda size, _at: latency + size / bandwidth, handed_over_s=0.0)
    assert found.latency_s == pytest.approx(latency, rel=0.02, abs=1e-7)
    assert found.bytes_per_second == pytest.approx(bandwidth, rel=0.02)
    if (16 << 10) < found.least_bytes < (64 << 20):
        fetch = found.latency_s + found.least_bytes / found.bytes_per_second
        # Rounded to a power of two: between two and four latencies, as layerwise.md has it.
        assert 2 <= fetch / found.latency_s <= 4
    assert LATENCIES == 3


def test_what_others_do_meanwhile_does_not_raise_it() -> None:
    tries = iter(range(10_000))
    found = measured_floor(lambda size, _at: 1e-4 + size / 1e9 + 0.01 * (next(tries) % 3 > 0), handed_over_s=0.0)
    assert found.latency_s == pytest.approx(1e-4, rel=0.05)


def test_it_is_measured_once_per_processor(tmp_path: Path) -> None:
    made = []

    @contextlib.contextmanager
    def probe() -> Iterator[Callable[[int, int], float]]:
        made.append(1)
        yield lambda size, _at: 1e-4 + size / 1e9

    first = fetch_floor(tmp_path / "cache", "Some CPU x2", probe)
    assert fetch_floor(tmp_path / "cache", "Some CPU x2", probe) == first
    assert len(made) == 1
    fetch_floor(tmp_path / "cache", "Another CPU x2", probe)
    assert len(made) == 2


def test_reads_of_this_machine_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_CACHE, str(tmp_path))
    device = CpuAccelerator(1 << 20)
    with device.fetch_probe() as fetch:
        assert all(0 < fetch(size, PROBE_BYTES - size) < 60 for size in (4096, 4 << 20))
    assert list(tmp_path.iterdir()) == []
    device.close()


@pytest.mark.parametrize(("latency_s", "fewer"), [(1e-7, False), (1e-3, True)])
def test_units_are_put_together_where_starting_a_fetch_takes_long(
    latency_s: float, fewer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_CACHE, str(tmp_path / "cache"))
    floor = FetchFloor(latency_s=latency_s, bytes_per_second=1e9)
    monkeypatch.setattr("batchwright_worker.layerwise.serving.accelerators.fetch_floor", lambda *_: floor)
    path = conv_net(tmp_path / "net.onnx")
    adapter = adapter_of("cpu", LayerwiseSettings(mode="Balanced", memory_budget_bytes=8 << 20), HOST)
    source = ModelSource(name="net", format="onnx", path=str(path), inputs=[], outputs=[])
    added = adapter.add(source, Effort(runs=1, least=1, seconds=0.0), share=0)
    assert (len(added.profiles[0].bytes) < 3) == fewer
    adapter.close()
