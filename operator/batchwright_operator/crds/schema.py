"""Structural OpenAPI schemas from msgspec Structs, with the CEL rules of the manifests.

msgspec writes JSON Schema 2020; the API server wants a structural schema: no `$ref`, no null, an integer-or-string
marker instead of a choice, and defaults only outside of lists (`batchwright_worker/api/defaults` says why); within
lists the descriptions tell them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from batchwright_worker.api.rules.rule import Rule

Schema = dict[str, Any]
_KEPT = (
    "description", "type", "format", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems",
    "maxItems", "maxProperties", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "default",
)  # fmt: skip


class _Writer:
    """Turns the JSON schema of one root struct into a structural one."""

    def __init__(self, root: type[msgspec.Struct], rules: Iterable[Rule]) -> None:
        (self._root,), self._named = msgspec.json.schema_components([root], ref_template="{name}")
        self._rules = tuple(rules)
        self._structs = {struct.__name__: struct for struct in _structs_of(root)}

    def schema(self) -> Schema:
        return self._write(self._root)

    def _write(self, node: Mapping[str, Any]) -> Schema:
        """One node: references are put in place, `X or null` becomes X, `integer or string` the marker."""
        choices = [choice for choice in node.get("anyOf", ()) if choice.get("type") != "null"]
        outer = {key: node[key] for key in _KEPT if key in node and key != "default"}
        if len(choices) == 1:
            inner = {key: value for key, value in self._write(choices[0]).items() if key != "default"}
            return inner | outer
        if choices:
            return {**_integer_or_string(choices), **outer}
        if "$ref" in node:
            inner = self._struct(node["$ref"])
            return inner | outer | _struct_default(inner)
        return self._plain(node)

    def _plain(self, node: Mapping[str, Any]) -> Schema:
        written = {key: node[key] for key in _KEPT if key in node}
        if "enum" in written:
            written.setdefault("type", "string")
        if written.get("default") in (None, (), [], {}):
            written.pop("default", None)
        if "items" in node:
            written["items"] = _element(self._write(node["items"]))
        elif node.get("type") == "object":
            written |= self._map(node)
        if written.get("type") == "integer":
            written["format"] = "int64"
        return written

    def _map(self, node: Mapping[str, Any]) -> Schema:
        if isinstance(node.get("additionalProperties"), Mapping):
            return {"additionalProperties": self._write(node["additionalProperties"])}
        return {"x-kubernetes-preserve-unknown-fields": True}

    def _struct(self, name: str) -> Schema:
        node = self._named[name]
        struct = self._structs[name]
        properties = {field: self._property(struct, field, value) for field, value in node["properties"].items()}
        written: Schema = {"description": node["description"], "type": "object", "properties": properties}
        if node["required"]:
            written["required"] = list(node["required"])
        return written | _validations(self._about(struct, ""))

    def _property(self, struct: type[msgspec.Struct], field: str, node: Mapping[str, Any]) -> Schema:
        attribute = next(each.name for each in msgspec.structs.fields(struct) if each.encode_name == field)
        written = self._write(node)
        return written | _validations(self._about(struct, attribute), written.get("x-kubernetes-validations", []))

    def _about(self, struct: type[msgspec.Struct], attribute: str) -> list[Rule]:
        return [rule for rule in self._rules if issubclass(struct, rule.on) and rule.at == attribute]


def _integer_or_string(choices: Iterable[Mapping[str, Any]]) -> Schema:
    """`integer or string`, with the limits of the string (which integers pass); other choices have no schema here."""
    kinds = {choice["type"]: choice for choice in choices}
    assert set(kinds) == {"integer", "string"}, f"not expressible in a CRD: {list(kinds)}"
    limits = {key: value for key, value in kinds["string"].items() if key in ("pattern", "maxLength")}
    return {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True, **limits}


def _struct_default(schema: Schema) -> Schema:
    """The struct's defaults, written out (rules are checked on a default before those inside are filled in), unless
    it needs a field without one."""
    if "required" in schema:
        return {}
    inner = {name: each["default"] for name, each in schema["properties"].items() if "default" in each}
    return {"default": inner} if inner else {}


def _element(schema: Schema) -> Schema:
    """The schema of an element of a list, whose defaults are told instead of set."""
    written = dict(schema)
    default = written.pop("default", None)
    if default is not None and not isinstance(default, dict):
        text = msgspec.json.encode(default).decode() if not isinstance(default, str) else default
        written["description"] = f"{written['description'].rstrip()} Default: {text}."
    if "properties" in written:
        written["properties"] = {name: _element(each) for name, each in written["properties"].items()}
    return written


def _validations(rules: Iterable[Rule], before: Iterable[Schema] = ()) -> Schema:
    written = [*before, *(_validation(rule) for rule in rules if rule.cel)]
    return {"x-kubernetes-validations": written} if written else {}


def _validation(rule: Rule) -> Schema:
    validation = {"rule": rule.cel, "message": rule.message}
    if rule.names:
        validation["fieldPath"] = f".{rule.names}"
    return validation


def _structs_of(root: type[msgspec.Struct]) -> Iterable[type[msgspec.Struct]]:
    """The struct and every one that its fields are made of."""
    found: dict[type[msgspec.Struct], None] = {}
    pending: list[Any] = [msgspec.inspect.type_info(root)]
    while pending:
        info = pending.pop()
        if isinstance(info, msgspec.inspect.StructType) and info.cls not in found:
            found[info.cls] = None
            pending += [field.type for field in info.fields]
        else:
            pending += _parts(info)
    return found


def _parts(info: Any) -> list[Any]:
    """Types that a metadata, list, tuple, map or choice is made of."""
    match info:
        case msgspec.inspect.Metadata():
            return [info.type]
        case msgspec.inspect.VarTupleType() | msgspec.inspect.ListType():
            return [info.item_type]
        case msgspec.inspect.DictType():
            return [info.value_type]
        case msgspec.inspect.UnionType():
            return list(info.types)
        case _:
            return []


def structural(root: type[msgspec.Struct], rules: Iterable[Rule] = ()) -> Schema:
    """The structural schema of a struct; rules of structs that it does not hold are left out."""
    return _Writer(root, rules).schema()
