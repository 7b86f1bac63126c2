"""The CRDs in the tree are those of the typed manifests, and each of their rules is tried by some bad manifest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from batchwright_operator.crds.generate import FOLDERS, KINDS, RULES, definition, differences
from batchwright_worker.api.documents import validate
from batchwright_worker.api.rules.rule import is_transition
from tests.crds.api_cases import bad_manifests

SCHEMAS = {kind.resource.kind: definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for kind in KINDS}


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field's schema with its path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


FIELDS = [pair for kind, schema in SCHEMAS.items() for pair in nodes(schema, kind)]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_the_files_are_as_generated(folder: Any) -> None:
    assert list(differences(folder)) == [], "run make generate"


def test_every_field_is_described() -> None:
    named = [path for path, schema in FIELDS if not path.endswith("[]") and not path.endswith(".metadata")]
    described = {path for path, schema in FIELDS if schema.get("description")}
    assert [path for path in named if path not in described] == []


def test_numbers_are_whole() -> None:
    assert [path for path, schema in FIELDS if schema.get("type") == "number"] == []


def test_every_list_says_how_it_merges() -> None:
    lists = [(path, schema) for path, schema in FIELDS if schema.get("type") == "array"]
    assert [path for path, schema in lists if "x-kubernetes-list-type" not in schema] == []


def test_spec_lists_and_texts_are_bounded() -> None:
    """Unbounded ones would make the cost of rules unbounded."""
    spec = [(path, schema) for path, schema in FIELDS if ".spec" in path]
    unbounded = [
        path
        for path, schema in spec
        if (schema.get("type") == "array" and "maxItems" not in schema)
        or (schema.get("type") == "string" and "maxLength" not in schema and "enum" not in schema)
    ]
    assert unbounded == []


def test_no_element_of_a_list_has_a_default() -> None:
    """A three-way merge of lists could never settle it (`api/defaults`)."""
    assert [path for path, schema in FIELDS if "[]" in path and "default" in schema] == []


def test_the_keys_of_lists_are_required() -> None:
    keyed = [(path, schema) for path, schema in FIELDS if schema.get("x-kubernetes-list-type") == "map"]
    assert keyed
    for path, schema in keyed:
        assert set(schema["x-kubernetes-list-map-keys"]) <= set(schema["items"]["required"]), path


def test_a_description_tells_the_default_that_the_schema_has_not() -> None:
    described = {path: str(schema.get("description")) for path, schema in FIELDS}
    models = "ModelDeployment.spec.models[]"
    assert described[f"{models}.batching.maxSize"].endswith(" Default: 32.")
    assert described[f"{models}.artifacts[].accelerator"].endswith(" Default: cpu.")
    assert described[f"{models}.inputs[].batched"].endswith(" Default: true.")
    assert "Default:" not in described[f"{models}.batching.mode"]


def test_no_status_field_but_the_generation_has_a_default() -> None:
    status = [path for path, schema in FIELDS if ".status." in path and "default" in schema]
    assert status == []
    assert all(schema["properties"]["status"]["default"] == {"observedGeneration": -1} for schema in SCHEMAS.values())


def test_every_rule_is_broken_by_some_bad_manifest() -> None:
    broken = {problem.message for case in bad_manifests() for problem in validate(case.document)}
    only_in_clusters = {"not an address that pods can read"}
    untried = {rule.wrong for rule in RULES if not is_transition(rule)} - broken - only_in_clusters
    assert untried == set()
