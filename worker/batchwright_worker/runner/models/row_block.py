"""Rows of a block of items on their way to a model: stacked by what may share a request. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchwright_worker.oip.datatypes import name_of, numpy_of, stays_finite
from batchwright_worker.runner.errors import TaskFailed
from batchwright_worker.runner.graph.block_values import BlockValues
from batchwright_worker.runner.models.signature import Group, InputSignature, Row, TensorType, fits, group_of, rows_of

_EXACT = 2.0**53
"""Whole numbers below this are themselves as float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBlock:
    """Rows of one group. `inputs`: (name, array) in the metadata's order; `stacked` says of each whether its first
    dimension counts the rows, or it is one value that all of them share."""

    group: Group
    inputs: tuple[tuple[str, NDArray[Any]], ...]
    stacked: tuple[bool, ...]
    owners: Sequence[tuple[int, int]]
    """Item and number within the item's rows, of each row."""
    row_bytes: int

    def __len__(self) -> int:
        return len(self.owners)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedRows:
    """What a model task asks for the items of a block. `counts`: rows of each item, None for one that is no list."""

    blocks: Sequence[RowBlock]
    counts: Mapping[int, int | None]
    failed: Mapping[int, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(map(len, self.blocks))


def asked_rows(values: BlockValues, items: Sequence[int], signature: InputSignature) -> AskedRows:
    """The rows of these items, each of which has a value."""
    if (whole := _columns(values, items, signature)) is not None:
        return AskedRows(blocks=[whole], counts=dict.fromkeys(items))
    counts: dict[int, int | None] = {}
    failed: dict[int, str] = {}
    groups: dict[Group, tuple[list[Row], list[tuple[int, int]]]] = {}
    for item in items:
        try:
            rows, many = rows_of(values.value(item), signature)
        except TaskFailed as error:
            failed[item] = str(error)
            continue
        counts[item] = len(rows) if many else None
        for number, row in enumerate(rows):
            group, owners = groups.setdefault(group_of(row, signature), ([], []))
            group.append(row)
            owners.append((item, number))
    blocks = [_stacked(key, rows, owners, signature) for key, (rows, owners) in groups.items()]
    return AskedRows(blocks=blocks, counts=counts, failed=failed)


def _stacked(
    group: Group, rows: Sequence[Row], owners: Sequence[tuple[int, int]], signature: InputSignature
) -> RowBlock:
    inputs: list[tuple[str, NDArray[Any]]] = []
    stacked: list[bool] = []
    for index, (name, first) in enumerate(rows[0]):
        by_row = signature.whole or signature.is_batched(name)
        if not by_row:
            inputs.append((name, first))
        elif len(rows) == 1:
            inputs.append((name, first[np.newaxis]))
        else:
            inputs.append((name, np.stack([row[index][1] for row in rows])))
        stacked.append(by_row)
    return RowBlock(
        group=group,
        inputs=tuple(inputs),
        stacked=tuple(stacked),
        owners=owners,
        row_bytes=sum(array.nbytes for _, array in rows[0]),
    )


# --- the common case: one row an item, all of one type and shape ---


def _columns(values: BlockValues, items: Sequence[int], signature: InputSignature) -> RowBlock | None:
    """All rows as they lie in columns already, or in records of JSON that fit; None where that is not so simple."""
    wanted = signature.inputs
    if not wanted or len(items) < 2 or signature.whole or not all(each.batched for each in wanted):
        return None
    values = values.only(items)
    inputs = []
    for each in wanted:
        column = _column(values, each, alone=len(wanted) == 1)
        if column is None or not _is(column, each):
            return None
        inputs.append((each.name, column))
    return RowBlock(
        group=tuple((name, array.dtype.str, array.shape[1:], b"") for name, array in inputs),
        inputs=tuple(inputs),
        stacked=(True,) * len(inputs),
        owners=[(item, 0) for item in items],
        row_bytes=sum(array.nbytes // len(items) for _, array in inputs),
    )


def _is(column: NDArray[Any], wanted: TensorType) -> bool:
    try:
        return name_of(column.dtype) == wanted.datatype and fits(column.shape[1:], wanted.shape)
    except ValueError:
        return False


def _column(values: BlockValues, wanted: TensorType, *, alone: bool) -> NDArray[Any] | None:
    if values.columns is not None:
        if values.bare:
            return values.columns[""] if alone else None
        return values.columns.get(wanted.name)
    rows = values.rows
    if not all(type(row) is dict and wanted.name in row for row in rows):
        return None
    return _from_json([row[wanted.name] for row in rows], wanted)


def _from_json(rows: list[Any], wanted: TensorType) -> NDArray[Any] | None:
    """Numbers of JSON as a column."""
    target = numpy_of(wanted.datatype)
    if target is None or target.kind not in "iuf" or type(rows[0]) not in (list, int, float):
        return None
    plain = _numbers(rows)
    if plain is None:
        return None
    if plain.dtype.kind == "f" and (target.kind != "f" or bool((np.abs(plain) >= _EXACT).any())):
        return None
    with np.errstate(over="ignore"):
        cast: NDArray[Any] = plain.astype(target)
    return cast if (stays_finite if target.kind == "f" else np.array_equal)(cast, plain) else None


def _numbers(rows: list[Any]) -> NDArray[Any] | None:
    """Numbers, or lists of them of one shape, as an array. No truth value or text is taken for a number: what is of
    several kinds is looked at one by one. (Not by `pyarrow.array`: it imports pandas, where that is installed.)"""
    flat, shape = rows, [len(rows)]
    while type(flat[0]) is list:
        size = len(flat[0])
        if not size or not all(type(each) is list and len(each) == size for each in flat):
            return None
        flat = list(chain.from_iterable(flat))
        shape.append(size)
    kinds = set(map(type, flat))
    if not kinds <= {int, float}:
        return None
    try:
        return np.array(flat, np.int64 if kinds == {int} else np.float64).reshape(shape)
    except OverflowError:
        return None
