"""A network cut into units, and the file that contains the units' weights one after the other.

A prepared network is a folder: `weights.bin` (the units' weights in order; a unit begins at a multiple of PAGE and is
read in one piece), `units.json` (`UnitIndex`: what lies where), and what the library needs to run the units. A weight
that several units use lies in each of them: a unit's weights can be read from the file alone. `tables.bin` has the
large tables of which a batch needs a few rows: those are gathered from it on the host.
"""

from __future__ import annotations

import hashlib
import mmap
import secrets
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
    "Tables",
    "Unit",
    "UnitIndex",
    "UnitWriter",
    "file_digest",
    "read_index",
    "replace_file",
    "write_index",
    "write_tables",
]

PAGE: Final = 4096
"""Units begin and end at multiples of this, in the file and in memory: direct reads ask for it."""
WEIGHTS_FILE: Final = "weights.bin"
INDEX_FILE: Final = "units.json"
TABLES_FILE: Final = "tables.bin"
FORMAT: Final = 3
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
    """`digest` names the model's file and everything else that the folder was made from. `tables` lie in a file of
    their own, at their offsets. `files`: all others of the folder by name, and their sizes (older indexes: none)."""

    model: str
    digest: str
    units: list[Unit]
    tables: list[Piece] = []
    files: dict[str, int] = {}

    @property
    def weight_bytes(self) -> int:
        """Of all units."""
        return sum(unit.size for unit in self.units)

    @property
    def table_bytes(self) -> int:
        """Of the tables that are never fetched."""
        return sum(table.size for table in self.tables)

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

    def index(self, model: str, digest: str, tables: Sequence[Piece] = ()) -> UnitIndex:
        """Of all that was added."""
        return UnitIndex(model=model, digest=digest, units=self._units, tables=list(tables))


def write_tables(folder: Path, tables: Sequence[tuple[Piece, Bytes]]) -> list[Piece]:
    """Write the file of tables, if there are any; each begins at a multiple of PAGE."""
    found, at = list[Piece](), 0
    if not tables:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TABLES_FILE).open("wb") as file:
        for piece, data in tables:
            file.seek(at)
            file.write(data.data)
            found.append(msgspec.structs.replace(piece, offset=at, size=data.nbytes))
            at = aligned(at + data.nbytes, PAGE)
    return found


class Tables:
    """The tables of a prepared folder, mapped: `memory` shows the file. What is read of it is no memory of this process
    once it has been forgotten; the kernel keeps pages in its cache as long as nobody needs the room."""

    def __init__(self, folder: Path) -> None:
        with (folder / TABLES_FILE).open("rb") as file:
            # A copy that is never written: libraries take no memory that they may not write to.
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._mapped.madvise(mmap.MADV_RANDOM)
        self.memory: Bytes = np.frombuffer(self._mapped, np.uint8)

    def forget(self) -> None:
        """Unmap the pages that were read."""
        self._mapped.madvise(mmap.MADV_DONTNEED)


def write_index(folder: Path, index: UnitIndex) -> UnitIndex:
    """Write the index, last of all: a folder with an index is complete. Gives it with its `files`."""
    files = {path.name: path.stat().st_size for path in folder.iterdir() if path.stat().st_size}
    index = msgspec.structs.replace(index, files=files)
    replace_file(folder / INDEX_FILE, msgspec.json.encode(index))
    return index


def replace_file(path: Path, content: bytes) -> None:
    """In one step; several may do so at once, also of one process. Raises OSError."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def read_index(folder: Path) -> UnitIndex | None:
    """The index of a prepared folder; None where there is none, or an incomplete one: something may have removed files
    that were not used for long."""
    try:
        index = msgspec.json.decode((folder / INDEX_FILE).read_bytes(), type=UnitIndex)
        size = (folder / WEIGHTS_FILE).stat().st_size
        tables = (folder / TABLES_FILE).stat().st_size if index.tables else 0
        others = {name: (folder / name).stat().st_size for name in index.files}
    except (OSError, msgspec.DecodeError):
        return None
    if others != index.files:
        return None
    end = max((table.offset + table.size for table in index.tables), default=0)
    return index if size == index.weight_bytes and tables == end else None


def file_digest(path: Path, *more: str) -> str:
    """SHA-256 of a file and of whatever else shapes what is made from it, cut to 32 digits."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for word in (str(FORMAT), *more):
        digest.update(b"\0" + word.encode())
    return digest.hexdigest()[:32]
