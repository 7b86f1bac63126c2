"""Label and field selectors, as the API server reads them: whether a watch would see an object. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from batchwright_operator.kube.objects import Raw

Matcher: TypeAlias = Callable[[Raw], bool]

_SET = re.compile(r"^\s*(\S+)\s+(in|notin)\s+\(([^)]*)\)\s*$")
_BINARY = re.compile(r"^\s*([^\s=!]+)\s*(==|!=|=)\s*([^\s=!]*)\s*$")
_UNARY = re.compile(r"^\s*(!?)\s*([^\s=!]+)\s*$")
_COMMA = re.compile(r",(?![^(]*\))")


def matcher(label_selector: str = "", field_selector: str = "") -> Matcher:
    """Whether an object matches both selectors. Raises ValueError for a selector that cannot be read."""
    labels = [_requirement(part) for part in _parts(label_selector)]
    fields = [_field(part) for part in _parts(field_selector)]

    def matches(obj: Raw) -> bool:
        found: Mapping[str, str] = obj["metadata"].get("labels") or {}
        return all(wants(found) for wants in labels) and all(wants(obj) for wants in fields)

    return matches


def within(namespace: str, matches: Matcher) -> Matcher:
    """Whether an object of this namespace matches; of any, where it is empty."""
    if not namespace:
        return matches
    return lambda obj: obj["metadata"].get("namespace") == namespace and matches(obj)


def _parts(selector: str) -> list[str]:
    return [part for part in _COMMA.split(selector) if part.strip()]


def _requirement(text: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.match(text):
        name, operator, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        return (
            (lambda labels: labels.get(name) in values)
            if operator == "in"
            else (lambda labels: labels.get(name) not in values)
        )
    if found := _BINARY.match(text):
        name, operator, value = found.groups()
        return (
            (lambda labels: labels.get(name) != value)
            if operator == "!="
            else (lambda labels: labels.get(name) == value)
        )
    if found := _UNARY.match(text):
        negated, name = found.groups()
        return (lambda labels: name not in labels) if negated else (lambda labels: name in labels)
    raise ValueError(f"cannot read the label selector {text!r}; write e.g. `app=x`, `app in (x,y)` or `!app`")


def _field(text: str) -> Callable[[Raw], bool]:
    found = _BINARY.match(text)
    if not found:
        raise ValueError(f"cannot read the field selector {text!r}; write e.g. `spec.nodeName=a`")
    path, operator, value = found.groups()
    steps = path.split(".")
    equal = operator != "!="
    return lambda obj: (_at(obj, steps) == value) is equal


def _at(obj: Raw, steps: list[str]) -> str:
    found: Any = obj
    for step in steps:
        found = found.get(step) if isinstance(found, dict) else None
    if isinstance(found, bool):
        return str(found).lower()
    return "" if found is None else str(found)
