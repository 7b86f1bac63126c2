"""The real engines on this machine: the same network in every library, and a plausible load table in seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from batchwright_worker.api.messages import BenchmarkResult
from batchwright_worker.api.names import (
    ENV_EMULATED_DEVICE,
    EXIT_PERMANENT,
    KIND_EMULATED,
    TERMINATION_MESSAGE_MAX_BYTES,
)
from batchwright_worker.benchmark import reference_model as resnet
from batchwright_worker.benchmark.command import command, measure
from batchwright_worker.benchmark.engines.emulated import EmulatedEngine


def test_network_has_the_parameters_of_resnet50() -> None:
    sizes = {name: array.size for name, array in resnet.parameters()}
    convolutions = [name for name in sizes if name.endswith(".weight") and name != "head.weight"]
    assert len(convolutions) == 53
    assert sum(sizes.values()) == 25_530_472  # torchvision's 25,557,032 less the folded normalisations' scales


@pytest.mark.slow
def test_torch_and_onnxruntime_agree() -> None:
    """The same architecture and weights: equal logits up to rounding, and of a usable size."""
    import torch

    from batchwright_worker.benchmark.engines.onnx import OnnxEngine
    from batchwright_worker.benchmark.engines.torch import TorchEngine

    images = resnet.images(2)
    by_onnx = OnnxEngine(threads=1).logits(images)
    by_torch = TorchEngine(torch.device("cpu")).logits(images)
    assert by_onnx.shape == (2, 1000)
    assert 0.1 < float(by_onnx.std()) < 100
    np.testing.assert_allclose(by_onnx, by_torch, rtol=1e-3, atol=1e-3 * float(by_onnx.std()))


@pytest.mark.slow
def test_real_cpu_benchmark_in_a_process_of_its_own(tmp_path: Path) -> None:
    """A few seconds' budget: a result in the termination message, modest in memory, quick to start."""
    script = (
        "import atexit, pathlib, sys; from batchwright_worker.benchmark.command import command; "
        "peak = lambda: pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]; "
        "atexit.register(lambda: print('PEAK', peak(), file=sys.stderr)); command()"
    )
    log = tmp_path / "termination-log"
    done = subprocess.run(
        [sys.executable, "-c", script, "--budget-seconds", "6", "--termination-log", str(log), "--json"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    result = msgspec.json.decode(log.read_bytes(), type=BenchmarkResult)
    assert json.loads(done.stdout) == msgspec.to_builtins(result)
    assert len(log.read_bytes()) <= TERMINATION_MESSAGE_MAX_BYTES
    assert (result.kind, result.error) == ("cpu", "")
    assert result.runtime_version.startswith("onnxruntime ")
    sizes = [row.batch_size for row in result.load_table]
    assert sizes == [2**step for step in range(len(sizes))]  # how many fit in the budget is the machine's affair
    assert sizes
    assert result.capacity_images_per_second == max(row.images_per_second for row in result.load_table) > 0.5
    assert all(row.max_services >= 1 for row in result.load_table)
    assert result.seconds > 1
    assert "batch 1: " in done.stderr
    assert int(done.stderr.rsplit("PEAK", 1)[1]) < 600 << 10  # KiB


@pytest.mark.slow
@pytest.mark.timed
def test_emulated_table_rises_as_its_formula_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        ENV_EMULATED_DEVICE, '{"fixedMicroseconds": 20000, "perRowMicroseconds": 1000, "memoryBytes": 134217728}'
    )
    result = measure(KIND_EMULATED, 6.0, lambda line: None)
    rates = {row.batch_size: row.images_per_second for row in result.load_table}
    assert list(rates) == [1, 2, 4, 8, 16]  # 32 images would need 256 MiB
    for batch, rate in rates.items():
        promised = batch / (0.020 + 0.001 * batch)
        assert 0.75 * promised < rate < 1.05 * promised  # never faster
    assert list(rates.values()) == sorted(rates.values())


@pytest.mark.parametrize(
    ("kind", "environment", "message"),
    [
        ("amd.com/gpu", {}, "placed by utilization alone"),
        (KIND_EMULATED, {ENV_EMULATED_DEVICE: "fast"}, "write e.g."),
        (KIND_EMULATED, {ENV_EMULATED_DEVICE: '{"memoryBytes": 1}'}, "not even one image"),
    ],
)
def test_failures_are_results_with_a_remedy(
    kind: str, environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    done = CliRunner(env=environment).invoke(command, ["--kind", kind, "--termination-log", str(log), "--json"])
    assert done.exit_code == EXIT_PERMANENT
    assert message in msgspec.json.decode(log.read_bytes(), type=BenchmarkResult).error


def test_cuda_without_a_device_says_what_to_request() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert "request nvidia.com/gpu" in measure("nvidia.com/gpu", 1.0, lambda line: None).error


def test_emulated_services_take_turns() -> None:
    from batchwright_worker.api.messages import EmulatedDevice

    engine = EmulatedEngine(EmulatedDevice(fixed_microseconds=5000, per_row_microseconds=0))
    assert engine.run_services(1, services=4, runs=2) >= 0.040
