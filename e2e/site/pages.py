"""Which pages the site has, where each comes from, and what becomes of links out of the documentation; pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass

_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#]+)((?:#[^)\s]*)?)\)")
_FENCED = re.compile(r"^```.*?^```$", flags=re.M | re.S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """`source`: path in the repository, empty for one that is generated. `target`: path in the site."""

    source: str
    target: str


NAV: Mapping[str, tuple[Page, ...]] = {
    "Start": (
        Page(source="README.md", target="index.md"),
        Page(source="docs/tutorials/own-model.md", target="tutorials/own-model.md"),
        Page(source="docs/tutorials/first-cluster.md", target="tutorials/first-cluster.md"),
        Page(source="docs/tutorials/job-over-s3.md", target="tutorials/job-over-s3.md"),
        Page(
            source="docs/tutorials/embeddings-from-hugging-face.md", target="tutorials/embeddings-from-hugging-face.md"
        ),
        Page(source="docs/tutorials/two-models-one-gpu.md", target="tutorials/two-models-one-gpu.md"),
        Page(source="docs/tutorials/gpu-cluster.md", target="tutorials/gpu-cluster.md"),
        Page(source="docs/faq.md", target="faq.md"),
        Page(source="docs/comparison.md", target="comparison.md"),
        Page(source="docs/python.md", target="python.md"),
    ),
    "Serve": (
        Page(source="docs/models.md", target="models.md"),
        Page(source="docs/exports.md", target="exports.md"),
        Page(source="docs/batching.md", target="batching.md"),
        Page(source="docs/tuning.md", target="tuning.md"),
        Page(source="docs/protocol.md", target="protocol.md"),
        Page(source="docs/openai.md", target="openai.md"),
        Page(source="docs/triton.md", target="triton.md"),
        Page(source="docs/autoscaling.md", target="autoscaling.md"),
        Page(source="docs/accelerators.md", target="accelerators.md"),
    ),
    "Jobs": (
        Page(source="docs/jobs.md", target="jobs.md"),
        Page(source="docs/functions.md", target="functions.md"),
    ),
    "Operate": (
        Page(source="docs/operator.md", target="operator.md"),
        Page(source="docs/troubleshooting.md", target="troubleshooting.md"),
    ),
    "Reference": (
        Page(source="", target="reference/modeldeployments.md"),
        Page(source="", target="reference/inferencejobs.md"),
        Page(source="", target="reference/acceleratorprofiles.md"),
        Page(source="", target="reference/settings.md"),
    ),
    "Inside": (
        Page(source="docs/README.md", target="documentation.md"),
        Page(source="docs/architecture.md", target="architecture.md"),
        Page(source="docs/how-to-add.md", target="how-to-add.md"),
        Page(source="docs/measurements.md", target="measurements.md"),
    ),
    "Project": (
        Page(source="CHANGELOG.md", target="project/changelog.md"),
        Page(source="CONTRIBUTING.md", target="project/contributing.md"),
        Page(source="SECURITY.md", target="project/security.md"),
        Page(source="GOVERNANCE.md", target="project/governance.md"),
        Page(source="CODE_OF_CONDUCT.md", target="project/conduct.md"),
        Page(source="ROADMAP.md", target="project/roadmap.md"),
    ),
}
"""Sections of the navigation. Pages of docs/ that are named nowhere come into the section Inside, by name."""


def all_pages(found: list[str]) -> dict[str, tuple[Page, ...]]:
    """`NAV` with the pages of docs/ (paths in the repository) that it does not name."""
    named = {page.source for pages in NAV.values() for page in pages}
    rest = tuple(Page(source=path, target=path.removeprefix("docs/")) for path in sorted(found) if path not in named)
    return {section: (*pages, *rest) if section == "Inside" else pages for section, pages in NAV.items()}


def relinked(text: str, page: Page, targets: Mapping[str, str], files_url: str) -> str:
    """The page with links that hold in the site: to other pages of it, else to the file below `files_url`, else (that
    is empty) none, and the words alone.

    `targets`: source -> target of every page. Links with a scheme stay as they are, as does what is fenced.
    """

    def link(found: re.Match[str]) -> str:
        words, to, anchor = found.groups()
        if "://" in to or to.startswith("mailto:"):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.source), to))
        if path in targets:
            return f"[{words}]({posixpath.relpath(targets[path], posixpath.dirname(page.target) or '.')}{anchor})"
        return f"[{words}]({files_url}/{path}{anchor})" if files_url else words

    parts, at = [], 0
    for fenced in _FENCED.finditer(text):
        parts += [_LINK.sub(link, text[at : fenced.start()]), fenced[0]]
        at = fenced.end()
    return "".join([*parts, _LINK.sub(link, text[at:])])
