"""One version everywhere, and the CHANGELOG tells of it."""

from __future__ import annotations

import re

import yaml

from e2e.release.chart import CHART, ROOT, version


def test_the_changelog_has_a_section_for_it_with_a_date() -> None:
    """As Keep a Changelog has them; what is newer stands above it, under Unreleased."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(version())}\] - \d{{4}}-\d\d-\d\d", headings[1])


def test_manifests_chart_and_dockerfiles_name_it() -> None:
    paths = [*ROOT.glob("manifests/**/*.yaml"), *ROOT.glob("images/*.Dockerfile")]
    texts = [path.read_text() for path in paths]
    tags = {
        tag
        for text in texts
        for tag in re.findall(r"(?:(?:image: |-t )\S*batchwright-[a-z-]+:|newTag: )([\w.]+)", text)
    }
    assert tags - {"dev"} == {version()}
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version(), version())
