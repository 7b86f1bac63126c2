"""Torch networks cut into units answer bit by bit what they answer whole."""

from __future__ import annotations

import queue
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from batchwright_worker.backends.base import Host
from batchwright_worker.backends.torch import load
from batchwright_worker.host.memory import EmulatedMemory
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.execution.jobs import LayerwiseBatch
from batchwright_worker.layerwise.networks.split_torch import onto
from batchwright_worker.layerwise.networks.torch import TorchUnits, open_torch
from batchwright_worker.layerwise.networks.units import NotDivisible
from batchwright_worker.layerwise.profiling.profiles import ENV_CACHE
from batchwright_worker.layerwise.serving.service import Service
from batchwright_worker.layerwise.serving.settings import LayerwiseSettings
from batchwright_worker.runtime.calls import run_batch
from batchwright_worker.runtime.settling import settled
from tests.layerwise.splits import ConvNet, Encoder, Sentences, answer, export

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


class WithConstants(torch.nn.Module):
    """Makes constants in its forward method."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(48, 48), torch.nn.Linear(48, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x) * torch.tensor([2.0]) + torch.arange(48) / torch.tensor(7.0))


def test_constants_that_a_network_makes_are_no_writes(tmp_path: Path) -> None:
    path = export(WithConstants(), (torch.randn(2, 48),), tmp_path / "net.pt2")
    for _ in range(2):  # prepared, and opened again
        network, source = opened(path, tmp_path, 10_000)
        x = {"x": np.random.default_rng(3).standard_normal((3, 48)).astype(np.float32)}
        expected = load(source, HOST).run(x, 3)
        for name, array in answer(network, x, 3).items():
            np.testing.assert_array_equal(array, expected[name])


SENTENCES = (torch.zeros(2, 6, dtype=torch.int64), torch.ones(2, 6, dtype=torch.int64))


def sentences(rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(rows)
    lengths = random.integers(1, 7, rows)
    mask = (np.arange(6) < lengths[:, None]).astype(np.int64)
    return {"ids": random.integers(0, 9_400, (rows, 6)) * mask, "mask": mask}


def test_rows_of_large_tables_are_gathered_and_the_tables_never_fetched(tmp_path: Path) -> None:
    network, source = opened(export(Sentences(), SENTENCES, tmp_path / "net.pt2"), tmp_path)
    assert network.index.table_bytes == 2 * 9_400 * 32 * 4
    assert [table.name for table in network.index.tables] == ["words.weight", "places.weight"]
    assert network.index.weight_bytes < 100_000
    whole = load(source, HOST)
    for rows in (1, 3, 8):
        inputs = sentences(rows)
        expected = whole.run(inputs, rows)
        for name, array in answer(network, inputs, rows).items():
            np.testing.assert_array_equal(array, expected[name])
    again, _ = opened(Path(source.path), tmp_path)
    assert again.index == network.index


def test_a_table_that_something_else_uses_too_is_fetched(tmp_path: Path) -> None:
    network, source = opened(export(Sentences(tied=True), SENTENCES, tmp_path / "net.pt2"), tmp_path, 2 << 20)
    assert [table.name for table in network.index.tables] == ["places.weight"]
    assert network.index.weight_bytes > 9_400 * 32 * 4
    inputs = sentences(3)
    expected = load(source, HOST).run(inputs, 3)
    for name, array in answer(network, inputs, 3).items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_row_that_the_table_has_not_fails_its_batch_alone(tmp_path: Path) -> None:
    network, _ = opened(export(Sentences(), SENTENCES, tmp_path / "net.pt2"), tmp_path)
    beyond = sentences(2) | {"ids": np.full((2, 6), 9_400)}
    with pytest.raises(IndexError):
        answer(network, beyond, 2)
    assert np.isfinite(answer(network, sentences(2), 2)["mean"]).all()


def test_gathered_rows_are_no_memory_of_the_process_any_more(tmp_path: Path) -> None:
    network, _ = opened(export(Sentences(), SENTENCES, tmp_path / "net.pt2"), tmp_path)
    answer(network, sentences(8), 8)
    mapped = (network.folder / "tables.bin").name
    lines = Path("/proc/self/smaps").read_text().splitlines()
    [begin] = [number for number, line in enumerate(lines) if line.endswith(mapped)]
    resident = next(line for line in lines[begin:] if line.startswith("Rss:"))
    assert resident.split()[1] == "0"


def test_a_network_in_bfloat16_streams_half_the_bytes_and_answers_the_same_bits(tmp_path: Path) -> None:
    """C12: what users have on GPUs is not made larger on the way."""
    torch.manual_seed(7)
    module, example = ConvNet().to(torch.bfloat16), (torch.randn(2, 3, 8, 8).to(torch.bfloat16),)
    network, source = opened(export(module, example, tmp_path / "net.pt2"), tmp_path)
    full, _ = opened(export(ConvNet(), EXAMPLES["conv"][1], tmp_path / "full.pt2"), tmp_path)
    assert {piece.dtype for unit in network.index.units for piece in unit.pieces if len(piece.shape) > 1} == {
        "bfloat16"
    }
    assert sum(p.size for unit in network.index.units for p in unit.pieces) < 0.55 * sum(
        p.size for unit in full.index.units for p in unit.pieces
    )
    inputs = {"x": np.random.default_rng(3).standard_normal((3, 3, 8, 8)).astype(ml_dtypes.bfloat16)}
    expected = load(source, HOST).run(inputs, 3)
    for name, array in answer(network, inputs, 3).items():
        assert array.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(array.view(np.uint16), np.asarray(expected[name]).view(np.uint16))


class Branching(torch.nn.Module):
    """Makes a tensor in the body of a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def positive(y: torch.Tensor) -> torch.Tensor:
            return y + torch.arange(8, dtype=torch.float32, device=y.device)

        def other(y: torch.Tensor) -> torch.Tensor:
            return y - torch.ones(8, device=y.device)

        return torch.cond(self.line(x).sum() > 0, positive, other, (x,))


def test_what_the_bodies_of_branches_make_is_made_on_the_device_too(tmp_path: Path) -> None:
    """C10."""
    network, _ = opened(export(Branching(), (torch.randn(2, 8),), tmp_path / "net.pt2"), tmp_path)
    for graph in network.graphs:
        onto(graph, torch.device("meta"))
    bodies = [
        each
        for graph in network.graphs
        for name, each in graph.module.named_modules()
        if name and isinstance(each, torch.fx.GraphModule)
    ]
    devices = [node.kwargs.get("device") for body in bodies for node in body.graph.nodes if "device" in node.kwargs]
    assert devices
    assert set(devices) == {torch.device("meta")}


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.line(x)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x, x, x)[0]


def test_operations_that_run_on_a_cpu_alone_are_refused_at_the_load_and_not_by_the_first_batch(tmp_path: Path) -> None:
    """C10: as older exports made it of attention on a CPU."""
    rows = torch.export.Dim("rows", min=1, max=64)
    examples, path = (torch.randn(2, 4, 6, 8),), tmp_path / "net.pt2"
    program = torch.export.export(Attention().eval(), examples, dynamic_shapes=({0: rows},))
    torch.export.save(program, path)
    network, _ = opened(path, tmp_path)
    [graph] = network.graphs
    with pytest.raises(NotDivisible, match=r"_for_cpu.*export it with torch\.export\.export"):
        onto(graph, torch.device("meta"))


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(b"x")
    source = ModelSource(name="net", format="torchscript", path=str(path), inputs=[], outputs=[])
    with pytest.raises(NotDivisible, match=r"torch\.export"):
        open_torch(source, HOST, lambda digest: tmp_path / digest, 1)


@pytest.mark.soak
def test_minilm_serves_in_16_mebibytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """all-MiniLM-L6-v2 with its published weights: 91 MB, of which a table of 47 MB is never fetched."""
    from safetensors.torch import load_file

    from e2e.bench.networks.minilm import Model, weights
    from e2e.bench.networks.workloads import minilm_weights

    monkeypatch.setenv(ENV_CACHE, str(tmp_path / "cache"))
    module = Model()
    module.load_state_dict(weights(load_file(minilm_weights()), module))
    examples = (torch.zeros(2, 32, dtype=torch.int64), torch.ones(2, 32, dtype=torch.int64))
    path = export(module, examples, tmp_path / "minilm.pt2")
    source = ModelSource(name="minilm", format="torch-export", path=str(path), inputs=[], outputs=[])
    settings = LayerwiseSettings(mode="Balanced", memory_budget_bytes=16 << 20)
    service = Service("cpu", settings, HOST, lambda error: pytest.fail(str(error)))
    added = service.add(source)
    assert added.table_bytes == 30_522 * 384 * 4
    assert 40e6 < sum(added.profiles[0].bytes) < 46e6
    random = np.random.default_rng(3)
    whole = load(source, HOST)
    for rows in (1, 8):
        inputs = {"input_ids": random.integers(0, 30_522, (rows, 32)), "attention_mask": np.ones((rows, 32), np.int64)}
        done: queue.SimpleQueue[LayerwiseBatch] = queue.SimpleQueue()
        service.submit("minilm", inputs, rows, done.put)
        batch = done.get(timeout=60)
        assert batch.error is None
        for name, array in whole.run(inputs, rows).items():
            np.testing.assert_array_equal(batch.outputs[name], array)
    assert service.streams().peak_bytes <= 12 << 20
    service.close()
