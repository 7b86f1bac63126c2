"""Reference pages, made from what the code itself goes by: the CRDs, and the operator's settings with their docs."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from batchwright_operator import settings
from batchwright_operator.settings import ENV_PREFIX, Settings
from batchwright_worker.api.defaults import default_of

Schema = dict[str, Any]
PARTS = ("spec", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A field of an object: `kind` is its type in words, `about` one paragraph."""

    name: str
    kind: str
    about: str


def kind_page(crd: Schema) -> str:
    """A kind of object, every field of `spec` and `status` with type, bounds, default and description."""
    names, (version,) = crd["spec"]["names"], crd["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    columns = [Row(name=each["name"], kind=each["type"], about=each.get("description", ""))
               for each in version.get("additionalPrinterColumns", ())]  # fmt: skip
    lines = [
        f"# {names['kind']}",
        "",
        f"`{crd['spec']['group']}/{version['name']}`, `kubectl get {names.get('shortNames', [names['plural']])[0]}`",
        "",
        schema.get("description", ""),
    ]
    for part in PARTS:
        if part in schema["properties"]:
            lines += _sections(part, schema["properties"][part])
    lines += ["", "## Columns", "", *_table(columns, ("column", "type", "what"))]
    if rules := list(_rules(schema)):
        lines += ["", "## Rules", "", "What the API server refuses beside wrong types:", ""]
        lines += [f"- {text}" for text in rules]
    return "\n".join(lines) + "\n"


def _sections(path: str, schema: Schema, depth: int = 2) -> Iterator[str]:
    """An object as a heading with the table of its fields, then the objects in it."""
    yield from ("", f"{'#' * min(depth, 4)} `{path}`", "")
    if depth > 2 and (about := _one_line(schema.get("description", ""))):
        yield from (about, "")
    required = set(schema.get("required", ()))
    fields = schema.get("properties", {})
    rows = [Row(name=name, kind=_kind(each, name in required), about=_about(each)) for name, each in fields.items()]
    yield from _table(rows, ("field", "type", "what"))
    for name, each in fields.items():
        inner, suffix = _inner(each)
        if inner is not None:
            yield from _sections(f"{path}.{name}{suffix}", inner, depth + 1)


def _inner(schema: Schema) -> tuple[Schema | None, str]:
    """The object that a field holds, alone, in a list or in a map; None if it holds none with named fields."""
    suffix, found = "", schema
    if schema.get("type") == "array":
        suffix, found = "[]", schema.get("items", {})
    elif isinstance(schema.get("additionalProperties"), dict):
        suffix, found = ".*", schema["additionalProperties"]
    return (found, suffix) if found.get("properties") else (None, "")


def _kind(schema: Schema, is_required: bool) -> str:
    name = schema.get("type", "integer or string" if schema.get("x-kubernetes-int-or-string") else "any")
    if name == "array":
        name = f"list of {schema.get('items', {}).get('type', 'any')}"
    elif isinstance(schema.get("additionalProperties"), dict):
        name = f"map to {schema['additionalProperties'].get('type', 'any')}"
    return f"{name}, required" if is_required else name


def _about(schema: Schema) -> str:
    facts = [_one_line(schema.get("description", ""))]
    if values := schema.get("enum") or schema.get("items", {}).get("enum"):
        facts.append(f"One of {', '.join(f'`{value}`' for value in values)}.")
    low, high = (schema.get(key, schema.get(f"{word}Length", schema.get(f"{word}Items")))
                 for key, word in (("minimum", "min"), ("maximum", "max")))  # fmt: skip
    if low is not None or high is not None:
        what = "characters" if schema.get("type") == "string" else "entries" if schema.get("type") == "array" else ""
        bounds = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
        facts.append(" ".join([*", ".join(bounds).split(), *([what] if what else [])]).capitalize() + ".")
    if "default" in schema:
        facts.append(f"Default: `{json.dumps(schema['default'])}`.")
    return " ".join(filter(None, facts))


def _rules(schema: Schema) -> Iterator[str]:
    """Messages of the rules in the Common Expression Language, anywhere in the schema."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield _one_line(rule.get("message") or rule["rule"])
    for each in [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]:
        if isinstance(each, dict):
            yield from _rules(each)


def settings_page() -> str:
    """The operator's settings: name in the file, environment variable, type, default, what it does."""
    lines = ["# Settings of the operator", "", _intro(), "", *_settings_table(Settings)]
    for section in (settings.RuntimeEntry, settings.BenchmarkPod, settings.Resources):
        lines += ["", f"## {section.__name__}", "", _one_line(section.__doc__ or ""), "", *_settings_table(section)]
    return "\n".join(lines) + "\n"


def _intro() -> str:
    return (settings.__doc__ or "").strip()


def _settings_table(section: type[msgspec.Struct]) -> list[str]:
    told = attributes(Path(settings.__file__), section.__name__)
    rows = []
    for field in msgspec.structs.fields(section):
        variable = f" Environment: `{ENV_PREFIX}{field.name.upper()}`." if section is Settings else ""
        kind, doc = told[field.name]
        about = f"{_one_line(doc)} Default: `{json.dumps(msgspec.to_builtins(default_of(field)))}`."
        about += variable
        rows.append(Row(name=field.encode_name, kind=kind, about=about.strip()))
    return _table(rows, ("setting", "type", "what"))


def attributes(path: Path, name: str) -> dict[str, tuple[str, str]]:
    """The fields of a class: type as it is written, and the text that stands below the field, if any."""
    tree = ast.parse(path.read_text())
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    told: dict[str, tuple[str, str]] = {}
    for node, after in zip(found.body, [*found.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            below = after.value if isinstance(after, ast.Expr) else None
            doc = str(below.value) if isinstance(below, ast.Constant) else ""
            told[node.target.id] = (_words(ast.unparse(node.annotation)), doc)
    return told


def _words(annotation: str) -> str:
    """A type for readers who write YAML."""
    for name, word in (("Literal[", "one of ["), ("str", "text"), ("float", "number"), ("int", "integer"),
                       ("bool", "true or false"), ("dict", "map"), ("tuple", "list"), (", ...", "")):  # fmt: skip
        annotation = re.sub(rf"\b{re.escape(name)}" if name[0].isalpha() else re.escape(name), word, annotation)
    return annotation


def _table(rows: list[Row], heads: tuple[str, str, str]) -> list[str]:
    def cell(text: str) -> str:
        return text.replace("|", "\\|")

    head = [f"| {' | '.join(heads)} |", "|---|---|---|"]
    return head + [f"| `{row.name}` | {cell(row.kind)} | {cell(row.about)} |" for row in rows]


def _one_line(text: str) -> str:
    return " ".join(text.split())
