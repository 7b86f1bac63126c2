"""An analytic model of a neural processing unit: what a layer's arithmetic and its weights take. Pure.

Four 128 x 128 arrays of 8-bit multipliers at 0.7 GHz, 400 GB/s of memory of which 90 % are reached, 16 MB on the chip
(layerwise.md, acceptance 5). A layer is a matrix product: `rows` activations (the pixels of the output, or tokens) of
length `inner` (im2col: input channels times kernel) against weights of `columns` (output channels).

- Weights stay in the arrays (weight-stationary): inner x columns is cut into tiles of 128 x 128; every tile sees all
  rows stream by, one a cycle. A layer whose shape fills its tiles badly (147 x 64 of ResNet's first, 9 x 1 of a
  depthwise channel) wastes the rest of the array: a compute time is not just operations over the peak.
- A tile's weights are loaded behind the rows of the tile before it, four rows of weights a cycle: a pass takes 32
  cycles at least. With 32 tokens a transformer just hides that.
- Rows come in blocks of 16 (the banks of the accumulators); a layer costs 8 cycles to begin.
- Groups of a convolution lie on the diagonal of one tile as long as they fit (3 groups of 36 x 4 in ResNeXt's first
  stage, 14 channels of a depthwise convolution); a group larger than a tile has its tiles to itself.
- The arrays share a layer's tiles, or the rows of one tile, or two by two, whichever is fastest.
- Weights are one byte each. Activations stay on the chip; pooling, normalization and additions run beside the arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from batchwright_worker.layerwise.core.steps import steps_of_seconds
from batchwright_worker.layerwise.core.values import Layer

__all__ = ["REFERENCE_NPU", "Npu", "Product", "divided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """rows x inner times inner x columns, per group. Without `weights` it multiplies activations (attention)."""

    name: str
    rows: int
    inner: int
    columns: int
    groups: int = 1
    weights: bool = True

    @property
    def weight_bytes(self) -> int:
        """One byte a weight."""
        return self.inner * self.columns * self.groups if self.weights else 0

    @property
    def operations(self) -> int:
        """Multiply-accumulates."""
        return self.rows * self.inner * self.columns * self.groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Npu:
    """The processor, in seconds and bytes."""

    arrays: int = 4
    side: int = 128
    hertz: float = 0.7e9
    bytes_per_second: float = 400e9 * 0.9
    memory_bytes: int = 16 * 2**20
    least_rows: int = 32
    row_block: int = 16
    begin_cycles: int = 8

    def tiles(self, product: Product) -> int:
        """Passes of weights through an array."""
        per_group = ceil(product.inner / self.side) * ceil(product.columns / self.side)
        if product.groups == 1 or per_group > 1:
            return product.groups * per_group
        together = min(self.side // product.inner, self.side // product.columns)
        return ceil(product.groups / together)

    def cycles(self, product: Product) -> int:
        """Cycles of the fastest way to share the product among the arrays."""
        tiles = self.tiles(product)
        ways = [ways for ways in range(1, self.arrays + 1) if self.arrays % ways == 0]
        return min(
            ceil(tiles / (self.arrays // by_rows)) * self._pass(ceil(product.rows / by_rows)) for by_rows in ways
        )

    def _pass(self, rows: int) -> int:
        return max(ceil(rows / self.row_block) * self.row_block, self.least_rows)

    def layers(self, products: Sequence[Product]) -> tuple[Layer, ...]:
        """One layer per product with weights; products without are fused backwards into the layer before them."""
        made: list[Layer] = []
        for product in products:
            begin = self.begin_cycles if product.weights else 0
            compute = steps_of_seconds((begin + self.cycles(product)) / self.hertz)
            if product.weights or not made:
                size = product.weight_bytes
                fetch = steps_of_seconds(size / self.bytes_per_second)
                made.append(Layer(compute=compute, fetch=fetch, bytes=size, name=product.name))
            else:
                made[-1] = replace(made[-1], compute=made[-1].compute + compute)
        return tuple(made)


def divided(layers: Sequence[Layer], most_bytes: int) -> tuple[Layer, ...]:
    """Layers above `most_bytes` cut into equal parts (by columns: compute and fetch divide alike)."""
    parts: list[Layer] = []
    for layer in layers:
        number = max(1, ceil(layer.bytes / most_bytes))
        shares = (_shares(amount, number) for amount in (layer.compute, layer.fetch, layer.bytes))
        for part, (compute, fetch, size) in enumerate(zip(*shares, strict=True), start=1):
            name = layer.name if number == 1 else f"{layer.name}[{part}/{number}]"
            parts.append(Layer(compute=compute, fetch=fetch, bytes=size, name=name))
    return tuple(parts)


def _shares(amount: int, number: int) -> list[int]:
    """A whole amount in whole parts as equal as can be."""
    return [amount * (part + 1) // number - amount * part // number for part in range(number)]


REFERENCE_NPU: Final = Npu()
"""The processor of the acceptance's table."""
