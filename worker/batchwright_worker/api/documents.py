"""Manifests from files, with the API server's defaults and checks, for use without a cluster.

The schemas are the CRDs that the operator package generates (`batchwright_worker/crds`), so that a manifest means and
is refused the same on a laptop as in a cluster; only file:// addresses are allowed here on top.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import yaml

from batchwright_worker.api.defaults import effective
from batchwright_worker.api.deployment import ModelDeployment, ModelDeploymentSpec, parse_deployment
from batchwright_worker.api.job import InferenceJob, InferenceJobSpec, parse_job
from batchwright_worker.api.names import API_VERSION
from batchwright_worker.api.rules.check import broken_rules
from batchwright_worker.api.validation import Problem, structural_problems

Document = dict[str, Any]
KINDS = {"ModelDeployment": "modeldeployments", "InferenceJob": "inferencejobs"}
_SPECS: dict[str, type[msgspec.Struct]] = {"ModelDeployment": ModelDeploymentSpec, "InferenceJob": InferenceJobSpec}


class ManifestError(ValueError):
    """A file cannot be read as manifests, or a manifest is wrong; the message says where and what to do."""


def load_manifests(paths: Iterable[Path]) -> list[Document]:
    """All documents of YAML or JSON files, as written, in order; empty documents are left out. Raises ManifestError."""
    return [document for path in paths for document in _read(path)]


def _read(path: Path) -> Iterator[Document]:
    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}: name a readable YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: not YAML: {error}") from error
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict):
            raise ManifestError(
                f"{path}: a document is a {type(document).__name__}: write apiVersion, kind, metadata, spec"
            )
        for part in ("metadata", "data"):
            if part in document and not isinstance(document[part], dict):
                what = f"{document.get('kind', 'a document')} has {part} of type {type(document[part]).__name__}"
                raise ManifestError(f"{path}: {what}: write names and values below it")
        yield document


@functools.cache
def schema_of(kind: str) -> Document:
    """The structural schema of a kind, from the packaged CRD."""
    text = files("batchwright_worker").joinpath("crds", f"{KINDS[kind]}.yaml").read_text()
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    schema: Document = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def with_defaults(document: Document) -> Document:
    """A copy with all defaults filled in: the schema's as the API server does it, and those of elements of lists as
    the operator does it; documents of other kinds unchanged."""
    if document.get("kind") not in KINDS:
        return document
    filled = copy.deepcopy(document)
    _fill({key: value for key, value in schema_of(document["kind"])["properties"].items() if key == "spec"}, filled)
    if isinstance(filled.get("spec"), dict):
        filled["spec"] = effective(filled["spec"], _SPECS[document["kind"]])
    return filled


def _fill(properties: Document, value: Document) -> None:
    for name, schema in properties.items():
        if value.get(name) is None and "default" in schema:
            value[name] = copy.deepcopy(schema["default"])
        elif name in value and value[name] is None:
            del value[name]
        _fill_inside(schema, value.get(name))


def _fill_inside(schema: Document, value: object) -> None:
    if isinstance(value, dict):
        _fill(schema.get("properties", {}), value)
    elif isinstance(value, list) and "items" in schema:
        for item in value:
            _fill_inside(schema["items"], item)


def validate(document: Document) -> list[Problem]:
    """What the API server would refuse in this document, all at once; [] for a good one. Fills in defaults first."""
    if document.get("apiVersion") != API_VERSION or document.get("kind") not in KINDS:
        found = f"{document.get('apiVersion')} {document.get('kind')}"
        kinds = " or ".join(KINDS)
        return [Problem(field="kind", message=f"{found} is not known here", remedy=f"write {API_VERSION} {kinds}")]
    filled = with_defaults(document)
    problems = list(structural_problems(schema_of(filled["kind"]), filled))
    return problems or list(rule_problems(filled))


def rule_problems(document: Document) -> Iterator[Problem]:
    """What can be said of a ModelDeployment or InferenceJob without the schema: wrong types, broken rules."""
    try:
        value: ModelDeployment | InferenceJob = (
            parse_deployment(document) if document["kind"] == "ModelDeployment" else parse_job(document)
        )
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        yield Problem(field=f"spec{path.rstrip('`')}", message=message, remedy="correct the field")
        return
    yield from broken_rules(value, "")
