"""torch.export programs of unusual shape, cut into units: they answer what the whole program answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from batchwright_worker.backends.torch import load
from tests.layerwise.splits import answer, export
from tests.layerwise.test_split_torch import HOST, opened

pytestmark = pytest.mark.slow
WIDTH = 48


class Nothing(nn.Module):
    """No weights at all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x).relu()


class Tied(nn.Module):
    """One matrix in the first, the third and the last layer, and one twice at once."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.other(torch.tanh(self.shared(x)))
        x = torch.tanh(self.shared(x))
        return self.shared(torch.tanh(x @ self.other.weight @ self.other.weight))


class Mixed(nn.Module):
    """Weights of five types, a scalar among them."""

    def __init__(self) -> None:
        super().__init__()
        self.brain = nn.Linear(WIDTH, WIDTH).to(torch.bfloat16)
        self.precise = nn.Linear(WIDTH, WIDTH).to(torch.float64)
        self.scale = nn.Parameter(torch.tensor(0.3))
        self.register_buffer("int8", torch.randint(-99, 99, (WIDTH, WIDTH), dtype=torch.int8))
        self.register_buffer("mask", torch.arange(WIDTH * WIDTH).reshape(WIDTH, WIDTH) % 3 == 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.brain(x.to(torch.bfloat16)).to(torch.float64))
        x = torch.tanh(self.precise(x).to(torch.float32))
        x = x * self.scale
        return x @ (self.int8.to(torch.float32) / 99 * self.mask)


class RowsInTheMiddle(nn.Module):
    """Rows become pairs of half rows, and come second on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.back = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(WIDTH, WIDTH) / 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        halves = self.first(self.wide(x).reshape(2 * rows, WIDTH))
        return self.back((self.second @ halves.t()).t().reshape(rows, 2 * WIDTH))


def many() -> nn.Module:
    return nn.Sequential(*(part for _ in range(60) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "one layer": (lambda: nn.Linear(WIDTH, WIDTH), 1),
    "no weights": (Nothing, 1),
    "60 small layers": (many, 60),
    "tied weights": (Tied, 6),
    "mixed types": (Mixed, 3),
    "rows in the middle": (RowsInTheMiddle, 4),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_strange_program_in_units_answers_what_it_answers_whole(kind: str, tmp_path: Path) -> None:
    build, units = NETWORKS[kind]
    path = export(build(), (torch.randn(3, WIDTH),), tmp_path / "net.pt2")
    network, source = opened(path, tmp_path, 10 * 1024)
    assert len(network.index.units) == units
    whole = load(source, HOST)
    [given] = [spec.name for spec in network.inputs]
    for rows in (1, 3):
        inputs = {given: np.random.default_rng(rows).standard_normal((rows, WIDTH)).astype(np.float32)}
        expected = whole.run(inputs, rows)
        for name, array in answer(network, inputs, rows).items():
            np.testing.assert_array_equal(array, expected[name])
    network.close()
