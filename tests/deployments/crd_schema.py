"""Validates a status against the CRD's schema as the API server would, and finds fields that it would prune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import yaml

CRDS = Path(__file__).resolve().parents[2] / "crds"


def problems(plural: str, status: dict[str, Any]) -> list[str]:
    """What is wrong with a status; unknown fields included."""
    found = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    [version] = found["spec"]["versions"]
    schema = _closed(version["schema"]["openAPIV3Schema"]["properties"]["status"])
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    return [f"{each.json_path}: {each.message}" for each in checker.iter_errors(status)]


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(each) for name, each in schema.items()}
    if "properties" in closed and "additionalProperties" not in closed:
        closed["additionalProperties"] = False
    return closed
