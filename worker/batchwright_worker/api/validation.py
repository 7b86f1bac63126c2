"""Checks a document against the structural schema of its CRD, with jsonschema; messages say what to write."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a document: `field` is its path (`spec.models[0].name`)."""

    field: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}: {self.remedy}"


_PASSED_ON = "x-kubernetes-preserve-unknown-fields"
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_METADATA = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "maxLength": 253, "pattern": rf"^{_LABEL}(\.{_LABEL})*$"},
        "namespace": {"type": "string", "maxLength": 63, "pattern": f"^{_LABEL}$"},
        "labels": _TEXTS,
        "annotations": _TEXTS,
    },
}
"""Of the API server's rules those that people break: its own schema says nothing of them."""


def structural_problems(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[Problem]:
    """Everything that breaks the schema, in the order of the document; unknown fields count."""
    import jsonschema  # 0.1 s: the manifests themselves are read without it

    validator = jsonschema.Draft202012Validator(closed_schema(schema))
    for error in sorted(validator.iter_errors(document), key=lambda each: [str(part) for part in each.absolute_path]):
        yield from _problems(error)


def closed_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with unknown fields refused, metadata open, and status left out: kubectl does the same."""
    properties = {**schema["properties"], "metadata": _METADATA, "status": {}}
    return _closed_object(
        {**schema, "properties": properties, "required": ["metadata", "spec"]}, {"metadata", "status"}
    )


def _closed_object(schema: Mapping[str, Any], open_fields: frozenset[str] | set[str] = frozenset()) -> dict[str, Any]:
    closed = dict(schema)
    if "properties" in schema and not schema.get(_PASSED_ON):
        closed["additionalProperties"] = False
        closed["properties"] = {
            name: value if name in open_fields else _closed_object(value)
            for name, value in schema["properties"].items()
        }
    if schema.get("x-kubernetes-list-type") == "set":
        closed["uniqueItems"] = True
    if "items" in schema:
        closed["items"] = _closed_object(schema["items"])
    return closed


def _problems(error: Any) -> Iterator[Problem]:
    """Problems of one jsonschema.ValidationError."""
    path = error.absolute_path
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or "document"
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        described = error.schema.get("properties", {}).get(missing, {}).get("description", "it is required")
        yield Problem(
            field=f"{field}.{missing}".removeprefix("document."), message="missing", remedy=f"add it: {described}"
        )
    elif error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        for name in [each for each in error.instance if each not in known]:
            near = difflib.get_close_matches(name, known, n=1) or known
            yield Problem(
                field=f"{field}.{name}".removeprefix("document."),
                message="unknown field",
                remedy=f"known: {', '.join(near)}",
            )
    else:
        yield Problem(field=field, message=error.message[:300], remedy=_remedy(error))


def _remedy(error: Any) -> str:
    """What to write instead, by the keyword of the schema that was broken."""
    wanted, keyword = error.validator_value, error.validator
    if keyword == "type" and wanted == "string" and isinstance(error.instance, bool):
        return 'put it in quotes: "Off"'
    if keyword in _REMEDIES:
        return _REMEDIES[keyword](wanted)
    return str(error.schema.get("description", "see kubectl explain"))


_REMEDIES: dict[str, Callable[[Any], str]] = {
    "enum": lambda wanted: f"write one of {', '.join(map(str, wanted))}",
    "type": lambda wanted: f"write {'an' if wanted[0] in 'aio' else 'a'} {wanted}",
    "uniqueItems": lambda _: "an element is written twice, keep one",
    "pattern": lambda wanted: f"write something that matches {wanted}",
    **dict.fromkeys(("minimum", "minLength", "minItems"), lambda wanted: f"write at least {wanted}"),
    **dict.fromkeys(("maximum", "maxLength", "maxItems", "maxProperties"), lambda wanted: f"write at most {wanted}"),
}
