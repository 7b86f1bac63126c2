"""A job on this machine has a runtime for each core, where that is the CPU and nobody has chosen another number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchwright_worker.api.names import KIND_CPU, KIND_EMULATED
from batchwright_worker.local import job_runtimes
from batchwright_worker.local.deployment import LocalDeployment
from batchwright_worker.local.job_runtimes import for_throughput

GIB = 1 << 30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB, and no limit."""
    monkeypatch.setattr(job_runtimes, "container_limit_bytes", lambda: 0)
    monkeypatch.setattr(job_runtimes, "machine_bytes", lambda: 16 * GIB)


def deployment(folder: Path, *, kind: str = KIND_CPU, size: int = 1000, format: str = "onnx", **spec: Any) -> Any:  # noqa: A002
    """One whose model is a folder of one file."""
    weights = folder / "m" / "deeper" / "weights"
    weights.parent.mkdir(parents=True)
    with weights.open("wb") as file:
        file.truncate(size)
    artifact = {"accelerator": KIND_CPU, "format": format, "uri": (folder / "m").as_uri()}
    models = [{"name": "m", "artifacts": [artifact, {"accelerator": KIND_EMULATED, "format": "emulated"}]}]
    return LocalDeployment(name="d", document={"spec": {"models": models, **spec}}, kind=kind)


def runtimes(deployment: LocalDeployment, cores: int) -> int:
    [found] = for_throughput([deployment], cores)
    return found.runtimes


@pytest.mark.parametrize(("cores", "wanted"), [(1, 1), (2, 2), (4, 4), (64, 4)])
def test_there_is_one_for_each_core_up_to_four(tmp_path: Path, cores: int, wanted: int) -> None:
    assert runtimes(deployment(tmp_path), cores) == wanted


@pytest.mark.parametrize(("gib", "wanted"), [(0.1, 4), (0.7, 3), (1.5, 2), (7, 1)])
def test_further_ones_have_to_fit_into_memory(tmp_path: Path, gib: float, wanted: int) -> None:
    assert runtimes(deployment(tmp_path, size=int(gib * GIB)), 4) == wanted


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": KIND_EMULATED},
        {"format": "torch-export"},
        {"format": "python"},
        {"runtimes": [{"accelerator": KIND_CPU, "count": 1}]},
        {"layerwise": {"mode": "Auto", "memoryBudgetBytes": GIB}},
    ],
    ids=str,
)
def test_what_wants_one_has_one(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert runtimes(deployment(tmp_path, **fields), 4) == 1


def test_a_container_has_the_memory_of_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_runtimes, "container_limit_bytes", lambda: GIB)
    assert runtimes(deployment(tmp_path, size=GIB // 2), 4) == 1
