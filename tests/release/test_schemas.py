"""The schemas for editors: good ones, which take every example here and refuse what is written wrongly."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from batchwright_worker.api.documents import KINDS
from e2e.release.chart import ROOT
from e2e.release.schemas import schemas

SCHEMAS: dict[str, dict[str, Any]] = {schema["title"]: schema for _, schema in schemas()}


def written() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every object of ours in the examples and samples."""
    for folder in ("examples", "manifests/samples"):
        for path in sorted((ROOT / folder).rglob("*.yaml")):
            for document in yaml.safe_load_all(path.read_text()):
                if isinstance(document, dict) and document.get("kind") in KINDS:
                    yield path, document


def faults(document: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(SCHEMAS[document["kind"]])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_one(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[kind])
    assert "x-kubernetes" not in str(SCHEMAS[kind])


def test_every_example_is_taken() -> None:
    found = list(written())
    assert {document["kind"] for _, document in found} == set(KINDS)
    assert [(path, faults(document)) for path, document in found if faults(document)] == []


def test_names_are_those_of_catalogues() -> None:
    assert [name for name, _ in schemas()] == ["modeldeployment_v1alpha1.json", "inferencejob_v1alpha1.json"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"replica": 2}, "'replica' was unexpected"),
        ({"replicas": "two"}, "$.spec.replicas"),
        ({"models": []}, "$.spec.models"),
        ({"queueOrder": "Newest"}, "$.spec.queueOrder"),
    ],
)
def test_what_is_written_wrongly_is_named(change: dict[str, Any], where: str) -> None:
    good = next(document for _, document in written() if document["kind"] == "ModelDeployment")
    bad = copy.deepcopy(good)
    bad["spec"] |= change
    assert where in " ".join(faults(bad))
    del bad["spec"]
    assert "'spec' is a required property" in " ".join(faults(bad))
