"""The defaults of what stands in lists, filled in: the one place, for a cluster and for local mode; and what is at its
default, left out. Pure.

The CRDs have none of the first. A default that the API server writes into an element of a list is a difference that a
three-way merge (kubectl apply, Argo CD) can never settle, since it compares lists as a whole; in a map it leaves it
alone. So the schema's defaults end at lists, and from there on the structs' hold.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _DefaultedField:
    """A field as it is filled in: `inner` is the struct of its value or, with `is_list`, of its elements."""

    name: str
    default: Any = None
    """None: it has none."""
    inner: type[msgspec.Struct] | None = None
    is_list: bool = False


def effective(spec: Raw, kind: type[msgspec.Struct]) -> Raw:
    """A copy of a spec of this struct in which the elements of lists have all values that hold for them. What the spec
    says itself, and what is outside of lists, stays as it is; so does what has another type than the struct says."""
    return _filled(spec, kind, in_list=False)


def _filled(value: Raw, kind: type[msgspec.Struct], *, in_list: bool) -> Raw:
    found = dict(value)
    for field in _fields(kind):
        if in_list and field.default is not None and found.get(field.name) is None:
            found[field.name] = copy.deepcopy(field.default)
        there = found.get(field.name)
        if field.inner is None or there is None:
            continue
        if field.is_list and isinstance(there, list):
            found[field.name] = [
                _filled(each, field.inner, in_list=True) if isinstance(each, dict) else each for each in there
            ]
        elif not field.is_list and isinstance(there, dict):
            found[field.name] = _filled(there, field.inner, in_list=in_list)
    return found


def without_defaults(value: Any) -> Any:
    """The value as JSON; fields that have their default are left out."""
    if isinstance(value, msgspec.Struct):
        fields = ((field, getattr(value, field.name)) for field in msgspec.structs.fields(value))
        return {field.encode_name: without_defaults(found) for field, found in fields if found != default_of(field)}
    if isinstance(value, tuple | list):
        return [without_defaults(each) for each in value]
    return {name: without_defaults(each) for name, each in value.items()} if isinstance(value, Mapping) else value


def default_of(field: msgspec.structs.FieldInfo | msgspec.inspect.Field) -> Any:
    """Its default; `msgspec.NODEFAULT` where it has none."""
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[_DefaultedField, ...]:
    """The fields of a struct that have a default, or parts that may."""
    described = msgspec.inspect.type_info(kind)
    assert isinstance(described, msgspec.inspect.StructType)
    found = [_field(each) for each in described.fields]
    return tuple(each for each in found if each.default is not None or each.inner is not None)


def _field(field: msgspec.inspect.Field) -> _DefaultedField:
    default = default_of(field)
    inner, is_list = _inner(field.type)
    if isinstance(default, msgspec.Struct):
        written: Any = {} if any(each.default is not None for each in _fields(type(default))) else None
    else:
        written = None if default in (msgspec.NODEFAULT, (), [], {}) else default
    return _DefaultedField(name=field.encode_name, default=written, inner=inner, is_list=is_list)


def _inner(info: msgspec.inspect.Type) -> tuple[type[msgspec.Struct] | None, bool]:
    """The struct that a value of this type is, or that its elements are (True)."""
    match info:
        case msgspec.inspect.Metadata():
            return _inner(info.type)
        case msgspec.inspect.StructType():
            return info.cls, False
        case msgspec.inspect.VarTupleType() | msgspec.inspect.ListType():
            return _inner(info.item_type)[0], True
        case msgspec.inspect.UnionType():
            return next((found for each in info.types if (found := _inner(each))[0] is not None), (None, False))
        case _:
            return None, False
