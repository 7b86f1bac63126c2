"""A part and the results of its failed items, which were run again, as one part in the order of the items."""

from __future__ import annotations

import gzip
import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import pyarrow as pa
from pyarrow import parquet

from batchwright_worker.runner.outputs.arrow_types import storable, unified
from batchwright_worker.runner.outputs.part_files import JsonLinesPart, write_parquet

_LINES: Final = 4096
Source = Literal["old", "new"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOrder:
    """Where the record of each of `items` is: the new part has those of `retried` (positions) but for `failed`, which
    failed again; the old one has all others."""

    items: int
    retried: Collection[int]
    failed: Collection[int]

    def runs(self) -> Iterator[tuple[Source, int]]:
        """Neighbouring records of one source, in order. Pure."""
        places = (self._source(position) for position in range(self.items))
        for source, run in groupby(place for place in places if place is not None):
            yield source, sum(1 for _ in run)

    def _source(self, position: int) -> Source | None:
        if position not in self.retried:
            return "old"
        return "new" if position not in self.failed else None


def merge(old: BinaryIO, new: BinaryIO, order: MergeOrder, path: Path, suffix: str) -> Any:
    """Write both as one part to `path`; its schema, None where its format has none. Blocking."""
    if suffix == "parquet":
        return _merge_parquet(old, new, order, path)
    readers = {"old": _Lines(old, suffix), "new": _Lines(new, suffix)}
    part = JsonLinesPart(path, suffix)
    for source, count in order.runs():
        for lines in readers[source].take(count):
            part.write(lines)
    part.close()
    return None


def _merge_parquet(old: BinaryIO, new: BinaryIO, order: MergeOrder, path: Path) -> Any:
    files = {"old": parquet.ParquetFile(old), "new": parquet.ParquetFile(new)}
    schema = storable(unified(file.schema_arrow for file in files.values()))
    readers = {name: _Rows(file.iter_batches()) for name, file in files.items()}
    write_parquet(path, schema, (each for source, count in order.runs() for each in readers[source].take(count)))
    return schema


class _Lines:
    def __init__(self, file: BinaryIO, suffix: str) -> None:
        self._file: Any = file
        if suffix.endswith(".gz"):
            self._file = gzip.GzipFile(fileobj=file)
        elif suffix.endswith(".zst"):
            self._file = io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))

    def take(self, count: int) -> Iterator[bytes]:
        """The next lines, many at once."""
        while count:
            lines = [self._file.readline() for _ in range(min(count, _LINES))]
            if not lines[-1]:
                raise EOFError("a part holds fewer records than its statistics say")
            yield b"".join(lines)
            count -= len(lines)


class _Rows:
    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._left: Any = None

    def take(self, count: int) -> Iterator[Any]:
        """The next rows, as batches."""
        while count:
            if self._left is None or not self._left.num_rows:
                self._left = next(self._batches)
            rows = self._left.slice(0, count)
            self._left = self._left.slice(rows.num_rows)
            count -= rows.num_rows
            yield rows
