"""Small networks with the structures that matter to a splitter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from batchwright_worker.layerwise.networks.units import WEIGHTS_FILE, Network


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + x)


class ConvNet(nn.Module):
    """Stem, three residual blocks, head: five units."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(3)))
        self.head = nn.Linear(width, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


class Encoder(nn.Module):
    """A transformer whose mask is alive everywhere, with a table of positions and tied ends."""

    def __init__(self, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.words = nn.Embedding(50, width)
        self.positions = nn.Parameter(torch.randn(64, width))
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(width),
                    "mix": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                    "last": nn.LayerNorm(width),
                }
            )
            for _ in range(layers)
        )

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bias = (1.0 - mask)[:, None, :] * -1e4
        x = self.words(ids) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            q, k, v = layer["mix"](layer["norm"](x)).chunk(3, dim=-1)
            weights = torch.softmax(q @ k.transpose(1, 2) / 5.0 + bias, dim=-1)
            x = x + layer["out"](weights @ v)
            x = layer["last"](x + layer["down"](torch.nn.functional.gelu(layer["up"](x))))
        return x @ self.words.weight.t(), x.mean(1)


class Sentences(nn.Module):
    """Words and places from tables of 1.2 MB each; places by the mask, as RoBERTa has them. `tied`: the table of words
    is the last layer's too."""

    def __init__(self, width: int = 32, *, tied: bool = False) -> None:
        super().__init__()
        self.tied = tied
        self.words = nn.Embedding(9_400, width, padding_idx=0)
        self.places = nn.Embedding(9_400, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        places = (mask.cumsum(1) * mask).long() + 1
        x = self.norm(self.words(ids) + self.places(places)) * mask[:, :, None]
        for layer in self.layers:
            x = x + torch.nn.functional.gelu(layer(x))
        return x @ self.words.weight[:5].t() if self.tied else x.mean(1)


def export(module: nn.Module, examples: tuple[torch.Tensor, ...], path: Path, *, dynamic: bool = True) -> Path:
    """As torch-export artifacts are made."""
    torch.manual_seed(7)
    rows = torch.export.Dim("rows", min=1, max=64)
    shapes = tuple({0: rows} for _ in examples) if dynamic else None
    torch.export.save(torch.export.export(module.eval(), examples, dynamic_shapes=shapes), path)
    return path


def answer(network: Network, inputs: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """Every unit on a copy of its weights, which is overwritten at once. Tables are read from their file alone."""
    weights = np.fromfile(network.folder / WEIGHTS_FILE, np.uint8)
    state = network.begin(inputs, rows)
    for position, unit in enumerate(network.index.units):
        held = weights[unit.offset : unit.offset + unit.size].copy()
        network.compute(position, held, state)
        held[:] = 255
    return dict(network.end(state, rows))
