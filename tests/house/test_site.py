"""The documentation builds as a site without a warning, and its references have every field and setting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from batchwright_operator.settings import Settings
from e2e.site.build import ROOT, build
from e2e.site.pages import Page, relinked
from e2e.site.reference import kind_page, settings_page


@pytest.mark.slow
def test_the_site_builds_and_has_no_dead_link(tmp_path: Path) -> None:
    build(tmp_path / "site")
    assert "InferenceJob" in (tmp_path / "site" / "reference" / "inferencejobs" / "index.html").read_text()
    assert 'src="dashboard.png"' in (tmp_path / "site" / "index.html").read_text()
    assert (tmp_path / "site" / "dashboard.png").exists()


@pytest.mark.parametrize("name", ["modeldeployments", "inferencejobs", "acceleratorprofiles"])
def test_the_reference_of_a_kind_has_every_field(name: str) -> None:
    crd: dict[str, Any] = yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text())
    page = kind_page(crd)
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    assert [field for field in fields(schema.get("spec", {})) if f"| `{field}` |" not in page] == []
    assert [field for field in fields(schema["status"]) if f"| `{field}` |" not in page] == []


def fields(schema: dict[str, Any]) -> Iterator[str]:
    """Names of all fields below a schema."""
    for name, each in schema.get("properties", {}).items():
        yield name
        yield from fields(each)
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from fields(schema[part])


def test_the_reference_of_settings_has_every_setting_with_its_variable() -> None:
    page = settings_page()
    for field in msgspec.structs.fields(Settings):
        assert f"| `{field.encode_name}` |" in page
        assert f"`BATCHWRIGHT_{field.name.upper()}`" in page
    assert "`rebalanceThreshold` | number | Of the fastest processor of its kind" in page


@pytest.mark.parametrize(
    ("link", "wanted"),
    [
        ("[a](tuning.md#x)", "[a](../tuning.md#x)"),
        ("[a](../crds/kustomization.yaml)", "[a](https://git.example/blob/main/crds/kustomization.yaml)"),
        ("[a](https://example.org/b)", "[a](https://example.org/b)"),
        ("```sh\n[a](tuning.md)\n```", "```sh\n[a](tuning.md)\n```"),
    ],
)
def test_links_lead_to_pages_of_the_site_or_to_the_repository(link: str, wanted: str) -> None:
    page = Page(source="docs/jobs.md", target="jobs/all.md")
    assert relinked(link, page, {"docs/tuning.md": "tuning.md"}, "https://git.example/blob/main") == wanted


def test_a_link_to_a_file_is_its_words_where_nobody_knows_the_repository() -> None:
    page = Page(source="docs/jobs.md", target="jobs.md")
    assert relinked("see [it](../Makefile).", page, {}, "") == "see it."
