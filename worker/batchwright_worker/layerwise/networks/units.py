"""A network cut into units, and the file that contains the units' weights one after the other.

A prepared network is a folder: `weights.bin` (the units' weights in order; a unit begins at a multiple of PAGE and is
read in one piece), `units.json` (`UnitIndex`: what lies where), and what the library needs to run the units. A weight
that several units use lies in each of them: a unit's weights can be read from the file alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.layerwise.networks.cuts import aligned

__all__ = [
    "PAGE",
    "Bytes",
    "Network",
    "NotDivisible",
    "Piece",
    "State",
    "Unit",
    "UnitIndex",
    "UnitWriter",
    "file_digest",
    "read_index",
]

PAGE: Final = 4096
"""Units begin and end at multiples of this, in the file and in memory: direct reads ask for it."""
WEIGHTS_FILE: Final = "weights.bin"
INDEX_FILE: Final = "units.json"
FORMAT: Final = 2
"""Of the folder; part of the digest."""

Bytes = NDArray[np.uint8]
State = list[dict[str, Any]]
"""The activations of a batch that runs: one dict per piece (models with a fixed batch dimension run in pieces)."""


class NotDivisible(Exception):  # noqa: N818
    """This model cannot run unit by unit, and why."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of a unit, at [offset, offset + size) of the unit; `dtype` as the library of the network writes it.
    `stride` counts elements (empty: row by row)."""

    name: str
    dtype: str
    shape: list[int]
    stride: list[int] = []
    offset: int
    size: int


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """A layer or fused block. `size` bytes of the weights file from `offset` on, both multiples of PAGE (0: none)."""

    name: str
    offset: int
    size: int
    pieces: list[Piece]
    operations: int = 0


class UnitIndex(msgspec.Struct, frozen=True, kw_only=True):
    """`digest` names the model's file and everything else that the folder was made from."""

    model: str
    digest: str
    units: list[Unit]

    @property
    def weight_bytes(self) -> int:
        """Of all units."""
        return sum(unit.size for unit in self.units)

    @property
    def largest_bytes(self) -> int:
        """Of the largest unit."""
        return max((unit.size for unit in self.units), default=0)


class Network(Protocol):
    """A model that runs unit by unit. Not thread-safe, but for several States."""

    @property
    def index(self) -> UnitIndex:
        """Its units."""

    @property
    def folder(self) -> Path:
        """Where its weights lie."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """Per row."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Per row."""

    def begin(self, inputs: Mapping[str, Array], rows: int) -> State:
        """A batch before its first unit."""

    def compute(self, position: int, weights: Bytes, state: State) -> None:
        """Run one unit on `weights` (its `size` bytes); nothing keeps them, or a view of them, afterwards."""

    def end(self, state: State, rows: int) -> Mapping[str, Array]:
        """The outputs of a batch behind its last unit. The State is used up."""

    def close(self) -> None:
        """Free all memory."""


class UnitWriter:
    """Writes the weights file; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / WEIGHTS_FILE
        self._units: list[Unit] = []
        self._end = 0

    def __enter__(self) -> UnitWriter:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.truncate(self._end)
        self._file.close()

    def add(self, name: str, tensors: Iterable[tuple[Piece, Bytes]], operations: int) -> Unit:
        """Append a unit; a piece's `offset` and `size` are set here, its bytes are as they lie in memory."""
        pieces, begin, at = [], self._end, 0
        for piece, data in tensors:
            self._file.seek(begin + at)
            self._file.write(data.data)
            pieces.append(msgspec.structs.replace(piece, offset=at, size=data.nbytes))
            at = aligned(at + data.nbytes)
        unit = Unit(name=name, offset=begin, size=aligned(at, PAGE), pieces=pieces, operations=operations)
        self._units.append(unit)
        self._end = begin + unit.size
        return unit

    def index(self, model: str, digest: str) -> UnitIndex:
        """Of all that was added."""
        return UnitIndex(model=model, digest=digest, units=self._units)


def write_index(folder: Path, index: UnitIndex) -> None:
    """Write the index, last of all: a folder with an index is complete."""
    partial = folder / f"{INDEX_FILE}.{os.getpid()}"
    partial.write_bytes(msgspec.json.encode(index))
    partial.replace(folder / INDEX_FILE)


def read_index(folder: Path) -> UnitIndex | None:
    """The index of a prepared folder; None where there is none, or an incomplete one."""
    try:
        index = msgspec.json.decode((folder / INDEX_FILE).read_bytes(), type=UnitIndex)
        size = (folder / WEIGHTS_FILE).stat().st_size
    except (OSError, msgspec.DecodeError):
        return None
    return index if size == index.weight_bytes else None


def file_digest(path: Path, *more: str) -> str:
    """SHA-256 of a file and of whatever else shapes what is made from it, cut to 32 digits."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for word in (str(FORMAT), *more):
        digest.update(b"\0" + word.encode())
    return digest.hexdigest()[:32]
