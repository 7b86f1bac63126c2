"""A part as parquet: converted from its records, in bounded memory, with one schema for the whole part."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from pyarrow import parquet

_RECORDS = 1024
_ERROR = pa.struct([("task", pa.string()), ("message", pa.string())])


def convert(path: Path) -> None:
    """Replace the file of JSON records by a parquet file of the same records.

    Columns: id, one per sink task with the type that all its values have in common (a JSON string where they have
    none), error (null for items that succeeded).
    """
    schema, as_text = _schema(path)
    target = path.with_suffix(".parquet.tmp")
    try:
        with parquet.ParquetWriter(target, schema, compression="zstd") as writer:
            for records in _chunks(path):
                writer.write_table(_table(records, schema, as_text))
        target.replace(path)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _schema(path: Path) -> tuple[Any, frozenset[str]]:
    types: dict[str, Any] = {}
    as_text: set[str] = set()
    for records in _chunks(path):
        for name in dict.fromkeys(name for record in records for name in record if name not in ("id", "error")):
            try:
                seen = pa.array([record.get(name) for record in records]).type
                types[name] = _common(types.get(name), seen)
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                as_text.add(name)
    fields = [(name, pa.string() if name in as_text else kind) for name, kind in types.items()]
    fields += [(name, pa.string()) for name in sorted(as_text - set(types))]
    return pa.schema([("id", pa.string()), *fields, ("error", _ERROR)]), frozenset(as_text)


def _common(known: Any, seen: Any) -> Any:
    if known is None:
        return seen
    schemas = [pa.schema([("value", known)]), pa.schema([("value", seen)])]
    return pa.unify_schemas(schemas, promote_options="permissive").field("value").type


def _table(records: list[dict[str, Any]], schema: Any, as_text: frozenset[str]) -> Any:
    for record in records:
        for name in as_text & record.keys():
            record[name] = msgspec.json.encode(record[name]).decode()
    return pa.Table.from_pylist(records, schema=schema)


def _chunks(path: Path) -> Iterator[list[dict[str, Any]]]:
    with path.open("rb") as file:
        while lines := list(islice(file, _RECORDS)):
            yield [msgspec.json.decode(line) for line in lines]
