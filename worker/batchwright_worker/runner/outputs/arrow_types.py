"""One type for all values of a column, whatever the blocks, shards and parts that they came in. Pure.

Types widen: nothing with anything, whole numbers with floats, vectors of one length with those of another, records with
more fields. What has no common type is text in JSON, and so is what Parquet cannot hold (a record without any field).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pyarrow as pa

from batchwright_worker.runner.outputs.records import json_text

JSON_TEXT: Final = b"json"
_MARK: Final = b"batchwright"


class NoCommonType(Exception):  # noqa: N818
    """These two have none."""


def json_field(name: str) -> Any:
    """A column whose values are texts in JSON."""
    return pa.field(name, pa.string(), metadata={_MARK: JSON_TEXT})


def is_json(field: Any) -> bool:
    """Are this column's values texts in JSON?"""
    return (field.metadata or {}).get(_MARK) == JSON_TEXT


def unified(schemas: Iterable[Any]) -> Any:
    """The schema that can hold what all of these hold; columns in the order in which they are met."""
    fields: dict[str, Any] = {}
    for schema in schemas:
        for field in schema:
            known = fields.get(field.name)
            fields[field.name] = field if known is None else _field(known, field)
    return pa.schema(list(fields.values()))


def storable(schema: Any) -> Any:
    """The schema as Parquet can hold it."""
    return pa.schema([json_field(field.name) if _has_empty_struct(field.type) else field for field in schema])


def _field(known: Any, met: Any) -> Any:
    if known.type.equals(met.type) and is_json(known) == is_json(met):
        return known
    if pa.types.is_null(met.type):
        return known
    if pa.types.is_null(known.type):
        return met
    if is_json(known) or is_json(met):
        return json_field(known.name)
    try:
        return pa.field(known.name, common(known.type, met.type))
    except NoCommonType:
        return json_field(known.name)


def common(one: Any, other: Any) -> Any:
    """The type that holds both. Raises NoCommonType."""
    if one.equals(other) or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _struct(one, other)
    if _is_list(one) and _is_list(other):
        element = common(one.value_type, other.value_type)
        sizes = {each.list_size if pa.types.is_fixed_size_list(each) else None for each in (one, other)}
        size = sizes.pop()
        return pa.list_(element) if size is None or sizes else pa.list_(element, size)
    if _is_number(one) and _is_number(other):
        return _number(one, other)
    raise NoCommonType


def conform(array: Any, kind: Any) -> Any:
    """The array as this wider type. Raises ArrowInvalid where a number would lose something."""
    if array.type.equals(kind):
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if pa.types.is_struct(kind):
        return _conform_struct(array, kind)
    if _is_list(kind):
        return _conform_list(array, kind)
    return array.cast(kind)


def as_json(array: Any) -> Any:
    """The values as texts in JSON."""
    return pa.array([None if value is None else json_text(value) for value in _values(array)], pa.string())


def _values(array: Any) -> list[Any]:
    """As `to_pylist`, but that times of nanoseconds are numpy's: Python's own hold none, and those of pandas are only
    there where it is installed."""
    kind = array.type
    if pa.types.is_temporal(kind) and getattr(kind, "unit", "") == "ns":
        if pa.types.is_time64(kind):
            return list(array.cast(pa.string()).to_pylist())
        make = np.timedelta64 if pa.types.is_duration(kind) else np.datetime64
        return [None if count is None else make(count, "ns") for count in array.cast(pa.int64()).to_pylist()]
    if pa.types.is_struct(kind):
        columns = [_values(array.field(index)) for index in range(kind.num_fields)]
        rows = zip(*columns, strict=True) if columns else ((),) * len(array)
        names = [field.name for field in kind]
        present = array.is_valid().to_pylist()
        return [dict(zip(names, row, strict=True)) if one else None for one, row in zip(present, rows, strict=True)]
    if _is_list(kind):
        flat, begin, found = _values(array.flatten()), 0, []
        for length in array.value_lengths().to_pylist():
            found.append(None if length is None else flat[begin : begin + length])
            begin += length or 0
        return found
    return list(array.to_pylist())


def fitted(batch: Any, schema: Any) -> Any:
    """The batch in a schema that was unified from its own and others."""
    columns = [_column(batch, field) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(batch: Any, field: Any) -> Any:
    index = batch.schema.get_field_index(field.name)
    if index < 0:
        return pa.nulls(batch.num_rows, field.type)
    array, own = batch.column(index), batch.schema.field(index)
    return as_json(array) if is_json(field) and not is_json(own) else conform(array, field.type)


def _struct(one: Any, other: Any) -> Any:
    fields = {field.name: field.type for field in one}
    for field in other:
        known = fields.get(field.name)
        fields[field.name] = field.type if known is None else common(known, field.type)
    return pa.struct(list(fields.items()))


def _conform_struct(array: Any, kind: Any) -> Any:
    own = {field.name: index for index, field in enumerate(array.type)}
    children = [
        conform(array.field(own[field.name]), field.type) if field.name in own else pa.nulls(len(array), field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())


def _conform_list(array: Any, kind: Any) -> Any:
    if pa.types.is_fixed_size_list(kind):
        values = conform(array.flatten(), kind.value_type) if not array.null_count else None
        if values is not None:
            return pa.FixedSizeListArray.from_arrays(values, kind.list_size)
        return pa.array(_values(array), kind)
    if array.null_count:
        return pa.array(_values(array), kind)
    values = conform(array.flatten(), kind.value_type)
    lengths = array.value_lengths()
    offsets = pa.array([0, *pa.compute.cumulative_sum(lengths).to_pylist()], pa.int32())
    return pa.ListArray.from_arrays(offsets, values)


def _number(one: Any, other: Any) -> Any:
    floats = [kind for kind in (one, other) if pa.types.is_floating(kind)]
    if len(floats) == 2:
        return max(floats, key=lambda kind: kind.bit_width)
    if floats:
        return pa.float64()
    signed = pa.types.is_signed_integer(one) or pa.types.is_signed_integer(other)
    if pa.uint64() in (one, other) and signed:
        raise NoCommonType
    return pa.int64() if signed else pa.uint64()


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _has_empty_struct(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return not kind.num_fields or any(_has_empty_struct(field.type) for field in kind)
    return _is_list(kind) and _has_empty_struct(kind.value_type)
