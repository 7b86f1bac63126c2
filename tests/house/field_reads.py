"""Which fields of our structs the code reads, by mypy's types: an attribute counts only on a value of that struct."""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from mypy import build, modulefinder, nodes, options, types

Field = tuple[str, str]
"""(full name of the struct, attribute)"""
WHOLE: Final = frozenset({"plain", "to_builtins", "asdict"})
"""Functions that read every field of what they are given."""


def _classes(found: types.Type | None) -> Iterator[str]:
    """The classes of a type: of each part of a union, and of elements."""
    proper = types.get_proper_type(found)
    if isinstance(proper, types.UnionType | types.TupleType):
        for item in proper.items:
            yield from _classes(item)
    elif isinstance(proper, types.Instance):
        yield proper.type.fullname
        for argument in proper.args:
            yield from _classes(argument)


def reads(roots: list[Path]) -> tuple[set[Field], set[str]]:
    """The fields that are read somewhere, and the structs that are read as a whole. Other libraries are not followed:
    what has their types is not looked at."""
    settings = options.Options()
    settings.python_version = sys.version_info[:2]
    settings.export_types, settings.preserve_asts, settings.incremental = True, True, False
    settings.ignore_missing_imports, settings.follow_imports = True, "skip"
    settings.mypy_path = [str(root.parent) for root in roots]
    settings.namespace_packages = settings.explicit_package_bases = True
    sources = [
        modulefinder.BuildSource(str(path), _module(path, root.parent), None)
        for root in roots
        for path in sorted(root.rglob("*.py"))
    ]
    known = build.build(sources, options=settings).types
    fields: set[Field] = set()
    whole: set[str] = set()
    for expression in known:
        if isinstance(expression, nodes.MemberExpr):
            fields |= {(name, expression.name) for name in _classes(known.get(expression.expr))}
        elif isinstance(expression, nodes.CallExpr) and _name(expression.callee) in WHOLE:
            whole |= {name for argument in expression.args for name in _classes(known.get(argument))}
    return fields, whole


def _name(callee: nodes.Expression) -> str:
    return callee.name if isinstance(callee, nodes.MemberExpr | nodes.NameExpr) else ""


def _module(path: Path, base: Path) -> str:
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def leaves(struct: Any, path: str) -> Iterator[tuple[str, list[list[Field]]]]:
    """Every leaf below a struct: its path in the manifest, and the fields on the way from the top, each with those of
    the struct's bases, by which it may be read."""
    for field in msgspec.structs.fields(struct):
        step = [(f"{each.__module__}.{each.__qualname__}", field.name) for each in struct.__mro__]
        below = list(_structs(field.type))
        where = f"{path}.{field.encode_name}"
        if not below:
            yield where, [step]
        for inner in below:
            for deeper, steps in leaves(inner, where):
                yield deeper, [step, *steps]


def _structs(kind: Any) -> Iterator[Any]:
    """The structs in a type."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        return
    for argument in typing.get_args(kind):
        yield from _structs(argument)
