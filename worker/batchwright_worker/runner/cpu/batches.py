"""What a function that takes batches (`cpu.batch`) is given, and what it gives: the items of a block in columns. Pure.

A column is an array of which the first dimension counts the items where their values are arrays or numpy scalars of one
shape and type; else a list with the value of each (numbers of JSON have no type of their own, so they stay as they
are, whichever items come together). Values that are dicts with the same keys are a dict of columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from batchwright_worker.runner.errors import TaskFailed
from batchwright_worker.runner.graph.block_values import BlockValues


def batch_of(values: BlockValues, items: Sequence[int]) -> Any:
    """The values of these items, which all have one."""
    chosen = values.only(items)
    if chosen.columns is not None:
        return chosen.columns[""] if chosen.bare else dict(chosen.columns)
    return _columns(chosen.rows)


def values_of(result: Any, items: Sequence[int]) -> BlockValues:
    """What a function gave for these items: columns as it is given them, or of Arrow (a table, a record batch, an
    array). Raises TaskFailed for another number of values."""
    result = _of_arrow(result)
    if isinstance(result, Mapping) and result:
        return _of_columns({str(name): _of_arrow(column) for name, column in result.items()}, items)
    if isinstance(result, np.ndarray) and result.ndim and not result.dtype.hasobject:
        _check(len(result), items, "")
        return BlockValues(items, columns={"": result.copy()}, bare=True)
    if isinstance(result, list | tuple | np.ndarray):
        _check(len(result), items, "")
        return BlockValues(items, rows=list(result))
    raise TaskFailed(
        f"with cpu.batch a function returns columns (an array, a list, a dict of these, an Arrow table), this one "
        f"{type(result).__name__}"
    )


def _columns(rows: Sequence[Any]) -> Any:
    first = rows[0] if rows else None
    if isinstance(first, dict) and first and all(isinstance(row, dict) and row.keys() == first.keys() for row in rows):
        return {name: _columns([row[name] for row in rows]) for name in first}
    return _column(rows)


def _column(values: Sequence[Any]) -> Any:
    first = values[0] if values else None
    if not isinstance(first, np.ndarray | np.generic) or first.dtype.hasobject:
        return list(values)
    kind = (first.dtype, first.shape)
    same = all(isinstance(each, np.ndarray | np.generic) and (each.dtype, each.shape) == kind for each in values)
    return np.stack(values) if same else list(values)


def _of_columns(columns: Mapping[str, Any], items: Sequence[int]) -> BlockValues:
    if all(isinstance(column, np.ndarray) and not column.dtype.hasobject for column in columns.values()):
        for name, column in columns.items():
            _check(len(column) if column.ndim else 0, items, f" in column {name!r}")
        return BlockValues(items, columns={name: column.copy() for name, column in columns.items()})
    rows = zip(*(_listed(name, column, items) for name, column in columns.items()), strict=True)
    return BlockValues(items, rows=[dict(zip(columns, row, strict=True)) for row in rows])


def _listed(name: str, column: Any, items: Sequence[int]) -> list[Any]:
    if isinstance(column, Mapping):
        values = values_of(column, items)
        return [values.at(place) for place in range(len(items))]
    if not isinstance(column, list | tuple) and not (isinstance(column, np.ndarray) and column.ndim):
        raise TaskFailed(f"column {name!r} of the result is no array and no list: {type(column).__name__}")
    _check(len(column), items, f" in column {name!r}")
    return list(column)


def _of_arrow(result: Any) -> Any:
    """Columns of Arrow as arrays where they hold numbers, or vectors of one length, and as lists else."""
    if isinstance(result, pa.Table | pa.RecordBatch):
        return {name: _of_arrow(result.column(name)) for name in result.column_names}
    if isinstance(result, pa.ChunkedArray):
        return _of_arrow(result.combine_chunks())
    if not isinstance(result, pa.Array):
        return result
    if result.null_count:
        return result.to_pylist()
    if pa.types.is_fixed_size_list(result.type):
        inner = _of_arrow(result.flatten())
        whole = isinstance(inner, np.ndarray)
        return inner.reshape(len(result), result.type.list_size, *inner.shape[1:]) if whole else result.to_pylist()
    plain = pa.types.is_integer(result.type) or pa.types.is_floating(result.type) or pa.types.is_boolean(result.type)
    return result.to_numpy(zero_copy_only=False) if plain else result.to_pylist()


def _check(count: int, items: Sequence[int], where: str) -> None:
    if count != len(items):
        raise TaskFailed(
            f"the function gave {count} values{where} for {len(items)} items: with cpu.batch, one for each"
        )
