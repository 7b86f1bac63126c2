"""The eight networks of the acceptance as the matrix products they run, from their published architectures. Pure.

Batch 1. Convolutional networks see one image of 224 x 224 (Inception-v3: 299 x 299); transformers and GNMT 32 tokens,
which for GNMT (eight LSTM layers in the encoder and eight in the decoder, 1,024 wide) are 32 steps of one sentence.
Embeddings are looked up, not multiplied: they are no weights to fetch. Biases and normalization are folded or
negligible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from types import MappingProxyType
from typing import Final

from batchwright_worker.layerwise.core.values import Layer
from batchwright_worker.layerwise.tools.npu_model import Npu, Product, divided

__all__ = ["COMPUTE_BOUND", "MEMORY_BOUND", "NETWORKS", "REFERENCE_MICROSECONDS", "layers_of"]

TOKENS: Final = 32


@dataclass(slots=True)
class _Image:
    """A convolutional network under construction: the feature map's size and channels so far."""

    height: int
    channels: int = 3
    products: list[Product] = field(default_factory=list)

    def convolve(
        self, columns: int, kernel: tuple[int, int], *, stride: int = 1, groups: int = 1, padded: bool = True
    ) -> None:
        """Append a convolution and go on from its output."""
        high, wide = kernel
        out_high = self._out(high, stride, padded)
        out_wide = self._out(wide, stride, padded)
        self.products.append(
            Product(
                name=f"conv{len(self.products)}.{high}x{wide}.{self.channels}-{columns}",
                rows=out_high * out_wide,
                inner=self.channels // groups * high * wide,
                columns=columns // groups,
                groups=groups,
            )
        )
        self.height, self.channels = out_high, columns

    def _out(self, kernel: int, stride: int, padded: bool) -> int:
        return ceil(self.height / stride) if padded else (self.height - kernel) // stride + 1

    def branches(self, *branches: Sequence[Convolution], pooled: int = 0, halve: bool = False) -> None:
        """Parallel chains of convolutions over one input, joined by channels (`pooled` are passed through)."""
        height, channels, joined = self.height, self.channels, pooled
        for branch in branches:
            self.height, self.channels = height, channels
            for columns, high, wide in branch[:-1]:
                self.convolve(columns, (high, wide))
            columns, high, wide = branch[-1]
            self.convolve(columns, (high, wide), stride=2 if halve else 1, padded=not halve)
            joined += self.channels
        self.channels = joined

    def classify(self, classes: int = 1000) -> None:
        """The fully connected layer after the global pooling."""
        self.products.append(Product(name="classifier", rows=1, inner=self.channels, columns=classes))


Convolution = tuple[int, int, int]
"""(output channels, kernel height, kernel width)"""


def _residual(groups: int) -> list[Product]:
    """ResNet-50 (stride in the 3 x 3, as trained today), or ResNeXt-50 32x4d with 32 groups."""
    image = _Image(224)
    image.convolve(64, (7, 7), stride=2)
    image.height = 56  # pooled
    for blocks, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        inner = width if groups == 1 else 2 * width
        for block in range(blocks):
            step = stride if block == 0 else 1
            height, channels = image.height, image.channels
            image.convolve(inner, (1, 1))
            image.convolve(inner, (3, 3), stride=step, groups=groups)
            image.convolve(4 * width, (1, 1))
            if block == 0:
                image.height, image.channels = height, channels
                image.convolve(4 * width, (1, 1), stride=step)
    image.classify()
    return image.products


def _mobilenet() -> list[Product]:
    """MobileNet-v2, width 1."""
    image = _Image(224)
    image.convolve(32, (3, 3), stride=2)
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, columns, blocks, stride in stages:
        for block in range(blocks):
            wide = image.channels * expansion
            if expansion > 1:
                image.convolve(wide, (1, 1))
            image.convolve(wide, (3, 3), stride=stride if block == 0 else 1, groups=wide)
            image.convolve(columns, (1, 1))
    image.convolve(1280, (1, 1))
    image.classify()
    return image.products


def _inception() -> list[Product]:
    """Inception-v3 without the auxiliary classifier (inference)."""
    image = _Image(299)
    image.convolve(32, (3, 3), stride=2, padded=False)
    image.convolve(32, (3, 3), padded=False)
    image.convolve(64, (3, 3))
    image.height = 73  # pooled
    image.convolve(80, (1, 1))
    image.convolve(192, (3, 3), padded=False)
    image.height = 35  # pooled
    for pool in (32, 64, 64):
        image.branches(((64, 1, 1),), ((48, 1, 1), (64, 5, 5)), ((64, 1, 1), (96, 3, 3), (96, 3, 3)), ((pool, 1, 1),))
    image.branches(((384, 3, 3),), ((64, 1, 1), (96, 3, 3), (96, 3, 3)), pooled=288, halve=True)
    for wide in (128, 160, 160, 192):
        long = ((wide, 1, 1), (wide, 7, 1), (wide, 1, 7), (wide, 7, 1), (192, 1, 7))
        image.branches(((192, 1, 1),), ((wide, 1, 1), (wide, 1, 7), (192, 7, 1)), long, ((192, 1, 1),))
    tall = ((192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3))
    image.branches(((192, 1, 1), (320, 3, 3)), tall, pooled=768, halve=True)
    for _ in range(2):
        _inception_last(image)
    image.classify()
    return image.products


def _inception_last(image: _Image) -> None:
    """The blocks at 8 x 8, whose branches fork once more at their ends (384 channels each way)."""
    image.branches(((320, 1, 1),), ((384, 1, 1),), ((448, 1, 1), (384, 3, 3)), ((192, 1, 1),))
    for kernel in ((1, 3), (3, 1), (1, 3), (3, 1)):
        image.channels = 384
        image.convolve(384, kernel)
    image.channels = 320 + 4 * 384 + 192


def _transformer(layers: int, width: int, *, relative: bool = False) -> list[Product]:
    """BERT's encoder; `relative`: XLNet's, which also projects the positions of both directions (2 x 32 rows)."""
    products: list[Product] = []
    heads = width // 64

    def project(name: str, inner: int, columns: int, rows: int = TOKENS) -> Product:
        return Product(name=name, rows=rows, inner=inner, columns=columns)

    for layer in range(layers):
        products += [project(f"layer{layer}.{name}", width, width) for name in ("query", "key", "value")]
        if relative:
            products.append(project(f"layer{layer}.position", width, width, 2 * TOKENS))
        products += [
            Product(name="scores", rows=TOKENS, inner=64, columns=TOKENS, groups=heads, weights=False),
            Product(name="mixed", rows=TOKENS, inner=TOKENS, columns=64, groups=heads, weights=False),
            project(f"layer{layer}.output", width, width),
            project(f"layer{layer}.widen", width, 4 * width),
            project(f"layer{layer}.narrow", 4 * width, width),
        ]
    return products


def _gnmt(layers: int = 8, width: int = 1024) -> list[Product]:
    """Eight LSTM layers each way: four gates of (input, state). The state's half runs step by step, in place."""
    sides = [f"{part}{layer}" for part in ("encoder", "decoder") for layer in range(layers)]
    return [
        Product(name=f"{side}.{half}", rows=TOKENS, inner=width, columns=4 * width)
        for side in sides
        for half in ("input", "state")
    ]


COMPUTE_BOUND: Final = ("ResNet-50", "ResNeXt-50", "MobileNet-v2", "Inception-v3")
MEMORY_BOUND: Final = ("BERT-base", "BERT-large", "XLNet-large", "GNMT")

NETWORKS: Final[Mapping[str, Callable[[], list[Product]]]] = MappingProxyType(
    {
        "ResNet-50": lambda: _residual(1),
        "ResNeXt-50": lambda: _residual(32),
        "MobileNet-v2": _mobilenet,
        "Inception-v3": _inception,
        "BERT-base": lambda: _transformer(12, 768),
        "BERT-large": lambda: _transformer(24, 1024),
        "XLNet-large": lambda: _transformer(24, 1024, relative=True),
        "GNMT": _gnmt,
    }
)
"""Matrix products by the network's name, in execution order."""

REFERENCE_MICROSECONDS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "ResNet-50": (127, 71),
        "ResNeXt-50": (205, 69),
        "MobileNet-v2": (101, 10),
        "Inception-v3": (232, 66),
        "BERT-base": (60, 236),
        "BERT-large": (213, 839),
        "XLNet-large": (248, 909),
        "GNMT": (94, 373),
    }
)
"""(compute, memory) that layerwise.md gives to check the tables against."""


def layers_of(network: str, npu: Npu) -> tuple[Layer, ...]:
    """The network's layers on this processor, none larger than half of its memory."""
    return divided(npu.layers(NETWORKS[network]()), npu.memory_bytes // 2)
