"""Built-in for records: json-fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchwright_worker.runner.cpu.builtin.source import value_of


def json_fields(
    inputs: Mapping[str, Any],
    *,
    fields: Sequence[str] | Mapping[str, str],
    of: str | None = None,
    single: bool = False,
    default: Any = ...,
) -> Any:
    """The named fields of a record: {field: value}; `fields` may map new names to paths such as "user.name" or
    "tags.0". `single`: the one field's value alone. A missing field raises ValueError unless there is a `default`."""
    record = value_of(inputs, of)
    paths = dict(fields) if isinstance(fields, Mapping) else {field: field for field in fields}
    found = {name: _at(record, path, default) for name, path in paths.items()}
    if not single:
        return found
    if len(found) != 1:
        raise ValueError(f"args.single wants one field, args.fields names {len(found)}")
    return next(iter(found.values()))


def _at(record: Any, path: str, default: Any) -> Any:
    value = record
    for step in path.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif default is not ...:
            return default
        else:
            has = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise ValueError(f"the record has no field {path!r}: {step!r} is not in {has}")
    return value
