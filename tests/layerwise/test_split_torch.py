"""Torch networks cut into units answer bit by bit what they answer whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from batchwright_worker.backends.base import Host
from batchwright_worker.backends.torch import load
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.networks.torch import TorchUnits, open_torch
from batchwright_worker.layerwise.networks.units import NotDivisible
from batchwright_worker.runtime.calls import run_batch
from batchwright_worker.runtime.settling import settled
from tests.layerwise.splits import ConvNet, Encoder, answer, export

pytestmark = pytest.mark.slow

HOST = Host(kind="cpu", threads=2, emulated_memory=EmulatedMemory(0))
IDS = np.arange(20).reshape(4, 5) % 50
EXAMPLES = {
    "conv": (ConvNet, (torch.randn(2, 3, 8, 8),)),
    "encoder": (Encoder, (torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 5))),
}


def opened(path: Path, tmp_path: Path, limit: int = 1 << 20) -> tuple[TorchUnits, ModelSource]:
    source = ModelSource(name="net", format="torch-export", path=str(path), inputs=[], outputs=[])
    return open_torch(source, HOST, lambda digest: tmp_path / digest, limit), source


def inputs_of(kind: str, rows: int) -> dict[str, np.ndarray]:
    if kind == "conv":
        return {"x": np.random.default_rng(rows).standard_normal((rows, 3, 8, 8)).astype(np.float32)}
    return {"ids": np.resize(IDS, (rows, 5)).astype(np.int64), "mask": np.ones((rows, 5), np.float32)}


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("limit", [1 << 20, 20_000])
def test_units_answer_bitwise_what_the_whole_model_answers(kind: str, limit: int, tmp_path: Path) -> None:
    module, examples = EXAMPLES[kind]
    network, source = opened(export(module(), examples, tmp_path / "net.pt2"), tmp_path, limit)
    whole = load(source, HOST)
    for rows in (1, 3):
        inputs = inputs_of(kind, rows)
        expected = whole.run(inputs, rows)
        for name, array in answer(network, inputs, rows).items():
            np.testing.assert_array_equal(array, expected[name])


def test_residual_blocks_stay_whole_and_a_second_open_needs_no_weights(tmp_path: Path) -> None:
    path = export(ConvNet(), EXAMPLES["conv"][1], tmp_path / "net.pt2")
    network, _ = opened(path, tmp_path)
    assert [len(unit.pieces) for unit in network.index.units] == [2, 8, 8, 8, 2]
    assert [unit.name.partition(":")[2] for unit in network.index.units] == [
        "stem",
        "blocks.0.body",
        "blocks.1.body",
        "blocks.2.body",
        "head",
    ]
    again, _ = opened(path, tmp_path)
    assert again.index == network.index
    assert (again.folder / "program.pt2").stat().st_size < 200_000


def test_a_fixed_batch_dimension_runs_in_pieces(tmp_path: Path) -> None:
    path = export(ConvNet(), EXAMPLES["conv"][1], tmp_path / "net.pt2", dynamic=False)
    network, source = opened(path, tmp_path)
    inputs = inputs_of("conv", 5)
    model = load(source, HOST)
    expected = run_batch(model, settled(model, source), inputs, 5)
    for name, array in answer(network, inputs, 5).items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_program_that_writes_to_its_buffers_is_refused(tmp_path: Path) -> None:
    module = ConvNet().train()
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(module, EXAMPLES["conv"][1]), path)
    with pytest.raises(NotDivisible, match="eval"):
        opened(path, tmp_path)


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(b"x")
    source = ModelSource(name="net", format="torchscript", path=str(path), inputs=[], outputs=[])
    with pytest.raises(NotDivisible, match=r"torch\.export"):
        open_torch(source, HOST, lambda digest: tmp_path / digest, 1)
