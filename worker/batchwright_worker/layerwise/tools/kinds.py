"""Networks of a kind, drawn at random: what orders of layers are compared on. Pure.

Times are hundredths of anything; a unit of fetch is a unit of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from batchwright_worker.layerwise.core.values import Layer

__all__ = ["KINDS", "network", "of_kind"]

_LAYERS: Final = 6
KINDS: Final = ("compute", "memory", "even", "convolutional", "reversed", "giant", "random")


def network(times: Sequence[tuple[float, float]]) -> list[Layer]:
    """Layers of (compute, fetch)."""
    return [Layer(compute=max(1, round(c)), fetch=max(1, round(w)), bytes=max(1, round(w))) for c, w in times]


def of_kind(kind: str, random: np.random.Generator, layers: int = _LAYERS) -> list[Layer]:
    """A compute-bound or memory-bound network (long: twice as many layers; short: half as many), one whose layers take
    as long to compute as to fetch, a convolutional one (weights double from layer to layer), that one reversed, one
    with a giant first layer, or anything (`KINDS`)."""
    if kind == "long compute":
        return of_kind("compute", random, 2 * layers)
    if kind == "short memory":
        return of_kind("memory", random, layers // 2)
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind!r}; choose from {', '.join(KINDS)}")
    return network(_times(kind, random, layers))


def _times(kind: str, random: np.random.Generator, layers: int) -> list[tuple[float, float]]:
    shares = [float(share) for share in random.uniform(0.8, 1.2, layers)]
    convolutional = [(60 * share, 4 * 2**depth * share) for depth, share in enumerate(shares)]

    def drawn(low: int, high: int, count: int = layers) -> list[float]:
        return [float(value) for value in random.integers(low, high + 1, count)]

    match kind:
        case "compute":
            compute, fetch = drawn(50, 100), drawn(5, 25)
        case "memory":
            compute, fetch = drawn(5, 25), drawn(50, 100)
        case "giant":
            compute, fetch = [10.0, *drawn(5, 25, layers - 1)], [200.0, *drawn(50, 100, layers - 1)]
        case "random":
            compute, fetch = drawn(1, 100), drawn(1, 100)
        case "even":
            compute = fetch = [60 * share for share in shares]
        case _:
            return convolutional[::-1] if kind == "reversed" else convolutional
    return list(zip(compute, fetch, strict=True))
