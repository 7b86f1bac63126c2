"""All devices at once, on emulated ones: processes that really run side by side."""

from __future__ import annotations

import pytest

from batchwright_worker.api.names import ENV_DEVICES, ENV_EMULATED_DEVICE, KIND_EMULATED
from batchwright_worker.benchmark import command
from batchwright_worker.benchmark.all_devices import rate_of_all
from batchwright_worker.benchmark.command import measure
from batchwright_worker.benchmark.engines.base import BenchmarkError
from tests.undisturbed import undisturbed

SLOW = '{"fixedMicroseconds": 100000, "perRowMicroseconds": 0}'
"""A batch takes 0.1 s of sleep, so that the machine's own speed hardly shows."""


def test_rates_of_devices_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_EMULATED_DEVICE, SLOW)
    wanted = (pytest.approx(40.0, rel=0.3), pytest.approx(160.0, rel=0.3))

    def run() -> tuple[float, float]:
        return tuple(rate_of_all(KIND_EMULATED, devices, 4, 0.5) for devices in (["0"], ["0", "1", "2", "3"]))

    assert undisturbed(run, lambda rates: rates == wanted) == wanted


def test_a_benchmark_of_several_devices_says_how_they_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_EMULATED_DEVICE, SLOW)
    monkeypatch.setenv(ENV_DEVICES, "2")
    monkeypatch.setattr(command, "ALL_DEVICES_S", 0.5)
    lines: list[str] = []
    result = undisturbed(
        lambda: measure(KIND_EMULATED, 3.0, lines.append), lambda result: 0.7 <= (result.scaling or 0.0) <= 1.0
    )
    assert [each.id for each in result.devices] == ["0", "1"]
    assert result.scaling is not None
    assert 0.7 <= result.scaling <= 1.0
    assert any(line.startswith("2 devices at once") for line in lines)


def test_a_single_device_has_no_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_EMULATED_DEVICE, SLOW)
    assert measure(KIND_EMULATED, 1.0, lambda line: None).scaling is None


def test_a_process_that_does_not_start_is_an_error_and_no_hang() -> None:
    with pytest.raises(BenchmarkError, match="did not start"):
        rate_of_all("example.com/none", ["0", "1"], 1, 0.1)
