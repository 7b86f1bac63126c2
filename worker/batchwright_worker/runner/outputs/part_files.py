"""The files of parts: lines of JSON, plain or compressed, and Parquet with one schema whatever its blocks held."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

import pyarrow as pa
from pyarrow import parquet

from batchwright_worker.runner.outputs.arrow_records import ArrowRecords
from batchwright_worker.runner.outputs.arrow_types import fitted, storable, unified
from batchwright_worker.runner.outputs.records import BlockResults, EncodedBlock, JsonRecords

_BUFFER: Final = 1 << 20
_ROWS: Final = 4096
_GROUP_BYTES: Final = 32 << 20
_LENGTH: Final = struct.Struct("<Q")


class PartFile(Protocol):
    """Takes the records of a part in order. `schema` is the part's after `close`, None where it has none."""

    schema: Any

    def encode(self, block: BlockResults) -> EncodedBlock:
        """Called for blocks in any order."""

    def write(self, records: Any) -> None:
        """Those of the next block in order."""

    def close(self) -> None:
        """Make the file whole. Blocking."""

    def abandon(self) -> None:
        """Give everything back; the file is removed by others."""


def part_file(path: Path, suffix: str) -> PartFile:
    """For the suffix of a part's name."""
    return ParquetPart(path) if suffix == "parquet" else JsonLinesPart(path, suffix)


class JsonLinesPart:
    """jsonl, jsonl.gz, jsonl.zst."""

    def __init__(self, path: Path, suffix: str) -> None:
        self.schema: Any = None
        self._records = JsonRecords()
        self._raw = path.open("wb", buffering=_BUFFER)
        self._file = self._raw
        if suffix.endswith(".gz"):
            self._file = cast(
                BinaryIO, gzip.GzipFile(fileobj=self._raw, mode="wb", compresslevel=6, mtime=0, filename="")
            )
        elif suffix.endswith(".zst"):
            self._file = pa.CompressedOutputStream(self._raw, "zstd")

    def encode(self, block: BlockResults) -> EncodedBlock:
        """See `PartFile.encode`."""
        return self._records.encode(block)

    def write(self, records: Any) -> None:
        """See `PartFile.write`."""
        self._file.write(records)

    def close(self) -> None:
        """See `PartFile.close`."""
        self._file.close()
        self._raw.close()

    def abandon(self) -> None:
        """See `PartFile.abandon`."""
        self._raw.close()


class ParquetPart:
    """Batches go to a spool beside the part, each with its own schema; the part is written when all are known."""

    def __init__(self, path: Path) -> None:
        self.schema: Any = pa.schema([("id", pa.string())])
        self._path = path
        self._records = ArrowRecords()
        self._spool_path = path.with_suffix(".spool.tmp")
        self._spool = self._spool_path.open("w+b", buffering=_BUFFER)
        self._waiting: list[Any] = []
        self._waiting_rows = 0

    def encode(self, block: BlockResults) -> EncodedBlock:
        """See `PartFile.encode`."""
        return self._records.encode(block)

    def write(self, records: Any) -> None:
        """See `PartFile.write`."""
        self._waiting.append(records)
        self._waiting_rows += records.num_rows
        if self._waiting_rows >= _ROWS:
            self._flush()

    def close(self) -> None:
        """See `PartFile.close`."""
        self._flush()
        self.schema = storable(self.schema)
        self._spool.seek(0)
        write_parquet(self._path, self.schema, self._spooled())
        self.abandon()

    def abandon(self) -> None:
        """See `PartFile.abandon`."""
        self._spool.close()
        self._spool_path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._waiting:
            return
        schema = unified(batch.schema for batch in self._waiting)
        table = pa.Table.from_batches([fitted(batch, schema) for batch in self._waiting]).combine_chunks()
        self._waiting.clear()
        self._waiting_rows = 0
        self.schema = unified((self.schema, schema))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as stream:
            stream.write_table(table)
        raw = sink.getvalue()
        self._spool.write(_LENGTH.pack(raw.size))
        self._spool.write(memoryview(raw))

    def _spooled(self) -> Iterator[Any]:
        while head := self._spool.read(_LENGTH.size):
            with pa.ipc.open_stream(self._spool.read(_LENGTH.unpack(head)[0])) as stream:
                yield from stream


def write_parquet(path: Path, schema: Any, batches: Iterator[Any]) -> None:
    """A Parquet file of these batches in this schema, in groups of rows that readers like."""
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        group: list[Any] = []
        size = 0
        for batch in batches:
            group.append(fitted(batch, schema))
            size += group[-1].nbytes
            if size >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group))
                group, size = [], 0
        if group:
            writer.write_table(pa.Table.from_batches(group))


def rewrite_parquet(source: BinaryIO, path: Path, schema: Any) -> None:
    """The same records in a wider schema."""
    file = parquet.ParquetFile(source)
    write_parquet(path, schema, file.iter_batches())
