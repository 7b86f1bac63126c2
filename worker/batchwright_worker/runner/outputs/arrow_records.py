"""Blocks of results as Arrow record batches: arrays keep their type, vectors of one length are fixed-size lists."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchwright_worker.runner.errors import TaskFailed
from batchwright_worker.runner.graph.block_values import BlockValues, plain_list
from batchwright_worker.runner.outputs.arrow_types import json_field
from batchwright_worker.runner.outputs.records import BlockResults, EncodedBlock, error_lines, json_text

_NOT_TO_BE_HELD = (
    pa.ArrowInvalid,
    pa.ArrowTypeError,
    pa.ArrowNotImplementedError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


def begin_imports() -> None:
    """pyarrow imports pandas at the first value that it is given, where that is installed. It takes a second, so it is
    done beside what a job waits for at its beginning, and not between its first two items. Returns at once."""
    threading.Thread(target=pa.array, args=([],), name="imports", daemon=True).start()


class ArrowRecords:
    """Columns `id` and one for each of the block's; their types are found block by block and unified in the part."""

    def encode(self, block: BlockResults) -> EncodedBlock:
        """What has neither an Arrow type nor a JSON form is that item's error."""
        columns = {name: _column(block, name, values) for name, values in block.columns.items()}
        good = block.good  # without those whose values cannot be written
        fields = [pa.field("id", pa.string())]
        arrays = [pa.array([block.ids[item] for item in good], pa.string())]
        for name, (items, array, is_json) in columns.items():
            fields.append(json_field(name) if is_json else pa.field(name, array.type))
            places = {item: place for place, item in enumerate(items)}
            arrays.append(array if list(items) == good else array.take(pa.array([places[item] for item in good])))
        batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
        errors = error_lines(block)
        return EncodedBlock(
            count=len(block.ids), nbytes=batch.nbytes + sum(map(len, errors)), records=batch, errors=errors
        )


def _column(block: BlockResults, name: str, values: BlockValues) -> tuple[Sequence[int], Any, bool]:
    """Items, their values as an array, and whether these are texts in JSON."""
    good = set(block.good)
    values = values.only([item for item in values.items if item in good])
    try:
        if values.columns is not None:
            return values.items, _of_columns(values.columns, bare=values.bare), False
        return values.items, pa.array([_ready(value) for value in values.rows]), False
    except _NOT_TO_BE_HELD:
        items, texts = _texts(block, name, values)
        return items, pa.array(texts, pa.string()), True


def _texts(block: BlockResults, name: str, values: BlockValues) -> tuple[list[int], list[str | None]]:
    items, texts = [], []
    for place, item in enumerate(values.items):
        value = values.at(place)
        try:
            texts.append(None if value is None else json_text(value))
            items.append(item)
        except TaskFailed as failure:
            block.failures[item] = (name, str(failure))
    return items, texts


def _of_columns(columns: Mapping[str, NDArray[Any]], *, bare: bool) -> Any:
    arrays = {name: _of_array(column) for name, column in columns.items()}
    return next(iter(arrays.values())) if bare else pa.StructArray.from_arrays(list(arrays.values()), list(arrays))


def _of_array(column: NDArray[Any]) -> Any:
    """Arrays of shape [n, ..] as n nested fixed-size lists; what is masked is null."""
    if column.dtype.kind in "mM" and 0 not in column.shape[1:]:
        return _of_times(column)
    if column.dtype.kind not in "biuf" or 0 in column.shape[1:]:  # text; types that Arrow does not know
        plain = column.astype(np.float32) if column.dtype.kind == "V" else column
        return pa.array(plain.tolist()) if column.dtype.kind != "V" else _of_array(plain)
    flat = np.ascontiguousarray(column).reshape(-1)
    # readers of Parquet disagree about half floats, and none knows a foreign byte order
    wide = (
        flat.astype(np.float32) if flat.dtype == np.float16 else flat.astype(flat.dtype.newbyteorder("="), copy=False)
    )
    mask = np.ma.getmaskarray(column).reshape(-1) if isinstance(column, np.ma.MaskedArray) else None
    return _nested(pa.array(wide, mask=mask), column.shape[1:])


def _of_times(column: NDArray[Any]) -> Any:
    """In units that Arrow and Parquet have: days, microseconds, nanoseconds; finer ones as text."""
    kind, (unit, _) = column.dtype.kind, np.datetime_data(column.dtype)
    if unit in ("ps", "fs", "as"):
        return pa.array(plain_list(column))
    kept = "ns" if unit == "ns" else "D" if kind == "M" and unit in "YMWD" else "us"
    array = pa.array(np.ascontiguousarray(column).reshape(-1).astype(f"{kind}8[{kept}]"))
    return _nested(array, column.shape[1:])


def _nested(array: Any, shape: tuple[int, ...]) -> Any:
    for size in reversed(shape):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _ready(value: Any) -> Any:
    """As Arrow takes it: arrays of one dimension, and lists of them."""
    if isinstance(value, np.ma.MaskedArray):
        return _ready(plain_list(value))
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "V" or value.dtype == np.float16:
            value = value.astype(np.float32)
        if not value.ndim:
            return value[()] if value.dtype.kind in "mM" else value.item()
        return [_ready(row) for row in value] if value.ndim > 1 else value
    if isinstance(value, Mapping):
        return {str(key): _ready(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_ready(each) for each in value]
    return bytes(value) if isinstance(value, bytearray | memoryview) else value
