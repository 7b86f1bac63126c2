"""Records of Arrow as Python's values, the same whatever packages are at hand.

Times of nanoseconds are datetimes where they are whole microseconds, else text as Arrow writes it: Python's own types
hold no nanoseconds, and those of pandas are only there where it is installed. A value that has no form at all (text
that is not UTF-8, a date after the year 9999) is the fault of its record alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.ids import BadId, id_of
from batchwright_worker.runner.inputs.items import Item

_UNREADABLE = (ValueError, OverflowError)


def check_names(schema: Any, path: str) -> None:
    """A record cannot say two values of one name. Raises StepFailed(InputInvalid)."""
    twice = _twice(schema)
    if twice is not None:
        raise StepFailed("InputInvalid", f"{path} has two columns {twice!r} in one record: name each once")


def batch_items(batch: Any, id_field: str, name: str, first: int) -> Iterator[Item]:
    """Items of the records of a file of this name, of which these are those from number `first` on."""
    for number, record in enumerate(_records(batch), first):
        place = f"{name}:{number}"
        if isinstance(record, str):
            yield Item(id=place, error=record)
            continue
        try:
            yield Item(id=id_of(record.get(id_field), place), data=record)
        except BadId as error:
            yield Item(id=place, error=str(error))


def id_values(column: Any) -> list[Any]:
    """Of a column of ids; text as bytes, since it may not be what it says."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return list(column.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()).to_pylist())
    values = pa.RecordBatch.from_arrays([column], ["id"])
    return [None if isinstance(record, str) else record["id"] for record in _records(values)]


def _records(batch: Any) -> list[dict[str, Any]] | Iterator[dict[str, Any] | str]:
    """Each record, or why there is none."""
    try:
        return list(_in_microseconds(batch).to_pylist())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, *_UNREADABLE):
        # taken, not sliced: a cast of a slice of lists also casts the elements of the others
        return (_record(batch.take(pa.array([row]))) for row in range(batch.num_rows))


def _record(row: Any) -> dict[str, Any] | str:
    found: dict[str, Any] = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            found[name] = _value(column)
        except _UNREADABLE as error:
            return f"its column {name!r} has no value that can be read: {error}"
    return found


def _value(column: Any) -> Any:
    """The only one of the column. Raises ValueError, OverflowError."""
    for kind in (_retyped(column.type, _of_microseconds), _retyped(column.type, lambda _: pa.string())):
        try:
            return column.cast(kind).to_pylist()[0] if kind != column.type else column.to_pylist()[0]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
    raise ValueError(f"a value of type {column.type}")


def _in_microseconds(batch: Any) -> Any:
    """Raises ArrowInvalid where that loses something."""
    kinds = [_retyped(field.type, _of_microseconds) for field in batch.schema]
    if all(kind == field.type for kind, field in zip(kinds, batch.schema, strict=True)):
        return batch
    arrays = [column.cast(kind) for column, kind in zip(batch.columns, kinds, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, batch.schema.names)


def _of_microseconds(kind: Any) -> Any:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.duration("us") if pa.types.is_duration(kind) else pa.time64("us")


def _retyped(kind: Any, leaf: Callable[[Any], Any]) -> Any:  # noqa: PLR0911 - a table
    """The type with another one for times of nanoseconds, however deep they are."""
    if pa.types.is_temporal(kind):
        return leaf(kind) if getattr(kind, "unit", "") == "ns" else kind
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_retyped(field.type, leaf)) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_retyped(kind.value_type, leaf), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_retyped(kind.value_type, leaf))
    if pa.types.is_large_list(kind):
        return pa.large_list(_retyped(kind.value_type, leaf))
    if pa.types.is_map(kind):
        return pa.map_(_retyped(kind.key_type, leaf), _retyped(kind.item_type, leaf))
    return _retyped(kind.value_type, leaf) if pa.types.is_dictionary(kind) else kind


def _twice(fields: Any) -> str | None:
    names: list[str] = [field.name for field in fields]
    own = next((name for name in names if names.count(name) > 1), None)
    if own is not None:
        return own
    return next((found for field in fields if (found := _twice_within(field.type)) is not None), None)


def _twice_within(kind: Any) -> str | None:
    if pa.types.is_struct(kind):
        return _twice(list(kind))
    if pa.types.is_map(kind):
        return _twice_within(kind.key_type) or _twice_within(kind.item_type)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return _twice_within(kind.value_type) if is_list else None
