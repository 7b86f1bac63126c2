"""What one field alone cannot say: rules between fields, once for the API server (CEL) and once for local mode.

A rule belongs to a struct of the manifests. With `at` it is about that field's value (`self` in CEL, the argument
of `holds`) and passes where the field is unset; otherwise it is about the struct, and `names` says which of its
fields an error should point to. `wrong: remedy` is the message in both places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`cel` and `holds` say the same thing; a test compares them on every bad and good manifest."""

    on: type[msgspec.Struct]
    cel: str
    """Empty: the API server refuses it by the schema (the keys of a list of maps are unique), which costs nothing
    there; an expression that compares every element with every other costs most of what a CRD may."""
    holds: Callable[[Any], bool]
    wrong: str
    remedy: str
    at: str = ""
    """Attribute of the struct whose value the rule is about."""
    names: str = ""
    """Field of the struct, as written in YAML, that an error points to."""

    @property
    def message(self) -> str:
        return f"{self.wrong}: {self.remedy}"


def or_default(path: str, struct: type[msgspec.Struct], attribute: str) -> str:
    """CEL for the value at a path (`self.?batching.?step`), which is this attribute of the struct: its default where it
    is not written, as elements of lists have no defaults in the schema (`api/defaults`)."""
    field = next(each for each in msgspec.structs.fields(struct) if each.name == attribute)
    assert isinstance(field.default, int), "texts would cost as if they had any length"
    return f"{path}.orValue({field.default})"


def is_transition(rule: Rule) -> bool:
    """Rules about a change need the object as it was, which only the API server has."""
    return "oldSelf" in rule.cel
