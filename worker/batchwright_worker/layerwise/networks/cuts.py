"""Cuts of a network into units, from its operations in execution order, the values between them and their weights.

Pure, and the same for torch and ONNX. A good cut is a place where one activation is alive (residual blocks stay whole,
because inside them two are). Values that live through half of the network (an attention mask, the skip connections
of a U-Net) and the network's own inputs do not count: they are there at every cut. Operations without matrices
(activations, normalisations, biases) are fused backwards: there is nothing worth a fetch of its own. A unit above the
limit is cut further, at the narrowest places that make the pieces small enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["ALIGNMENT", "Operation", "Span", "aligned", "boundaries", "cut", "unit_limits", "weight_bytes"]

ALIGNMENT: Final = 256
"""Every tensor of a unit begins at a multiple of this: a GPU's libraries choose their kernels by it, so that what runs
here is what runs on a model that is on the device as a whole."""
_UNITS: Final = 4
"""So many of the largest units are to fit the memory: below two to three times the largest unit every order loses."""
_LONG_LIVED: Final = 0.5
"""A value that lives for more than this share of the operations does not count as alive at a cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One step of the network: the activations it reads and writes, its weights (key -> bytes), and which of these
    are matrices (two dimensions and more)."""

    reads: frozenset[str]
    writes: tuple[str, ...]
    weights: Mapping[str, int]
    matrices: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Span:
    """Operations [start, stop)."""

    start: int
    stop: int


def aligned(size: int, to: int = ALIGNMENT) -> int:
    """The next multiple."""
    return -(-size // to) * to


def weight_bytes(operations: Sequence[Operation], span: Span) -> int:
    """Bytes of a unit's weights, each aligned; a weight that is used twice counts once."""
    weights: dict[str, int] = {}
    for operation in operations[span.start : span.stop]:
        weights.update(operation.weights)
    return sum(map(aligned, weights.values()))


def boundaries(operations: Sequence[Operation], light: Collection[str] = ()) -> list[int]:
    """Per operation but the last: how many activations are alive behind it. `light` ones (numbers) weigh nothing."""
    last_read: dict[str, int] = {}
    for index, operation in enumerate(operations):
        for name in operation.reads:
            last_read[name] = index
    widths = [0] * max(0, len(operations) - 1)
    for index, operation in enumerate(operations):
        for name in operation.writes:
            end = last_read.get(name, index)
            if name in light or end - index > _LONG_LIVED * len(operations):
                continue
            for place in range(index, min(end, len(widths))):
                widths[place] += 1
    return widths


def unit_limits(memory_bytes: int, least_bytes: int) -> tuple[int, int]:
    """Bytes of the largest unit for memory of this size, and of the smallest: as given, at most a quarter of that."""
    limit = memory_bytes // _UNITS
    return limit, min(least_bytes, limit // 4)


def cut(
    operations: Sequence[Operation], limit_bytes: int, light: Collection[str] = (), least_bytes: int = 0
) -> list[Span]:
    """The units, in order: all operations, each once. Only single operations are larger than `limit_bytes`; those
    below `least_bytes` are put together as far as the limit allows."""
    widths = boundaries(operations, light)
    places = [index + 1 for index, width in enumerate(widths) if width <= 1]
    edges = [0, *places, len(operations)]
    blocks = [Span(start, stop) for start, stop in itertools.pairwise(edges) if start < stop]
    pieces = [piece for block in _fused(operations, blocks) for piece in _split(operations, block, limit_bytes, widths)]
    return _gathered(operations, _fused(operations, pieces), limit_bytes, least_bytes)


def _gathered(operations: Sequence[Operation], spans: Sequence[Span], limit: int, least: int) -> list[Span]:
    """Small neighbours as one: what starting a fetch takes would be most of theirs."""
    found: list[Span] = []
    for span in spans:
        both = Span(found[-1].start, span.stop) if found else span
        small = found and min(weight_bytes(operations, each) for each in (found[-1], span)) < least
        if small and weight_bytes(operations, both) <= limit:
            found[-1] = both
        else:
            found.append(span)
    return found


def _fused(operations: Sequence[Operation], spans: Sequence[Span]) -> list[Span]:
    """Spans without matrices go to the one before; those before the first matrix go to the one behind."""
    fused: list[Span] = []
    for span in spans:
        heavy = any(operation.matrices for operation in operations[span.start : span.stop])
        before = fused[-1] if fused else None
        if before is not None and (not heavy or not _heavy(operations, before)):
            fused[-1] = Span(before.start, span.stop)
        else:
            fused.append(span)
    return fused


def _heavy(operations: Sequence[Operation], span: Span) -> bool:
    return any(operation.matrices for operation in operations[span.start : span.stop])


def _split(operations: Sequence[Operation], span: Span, limit: int, widths: Sequence[int]) -> Iterator[Span]:
    """Pieces within the limit where that can be; greedy, each cut at the narrowest place since the one before."""
    start = span.start
    while start < span.stop:
        stop = _reach(operations, start, span.stop, limit)
        if stop < span.stop:
            stop = _narrowest(operations, Span(start, stop), widths)
        yield Span(start, stop)
        start = stop


def _reach(operations: Sequence[Operation], start: int, stop: int, limit: int) -> int:
    """How far a piece may go; at least one operation."""
    weights: dict[str, int] = {}
    for index in range(start, stop):
        weights.update(operations[index].weights)
        if index > start and sum(map(aligned, weights.values())) > limit:
            return index
    return stop


def _narrowest(operations: Sequence[Operation], span: Span, widths: Sequence[int]) -> int:
    """The narrowest cut that leaves weights on its left; of equals the last (the largest piece)."""
    weighted = [index for index in range(span.start, span.stop) if operations[index].weights]
    first = weighted[0] if weighted else span.start
    return min(range(first + 1, span.stop + 1), key=lambda place: (widths[place - 1], -place))
