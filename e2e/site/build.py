"""Assembles the pages and lets Zensical, which came after Material for MkDocs, build them. A dead link is an error."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import yaml

from e2e.peers import peer_python
from e2e.site.pages import Page, all_pages, relinked
from e2e.site.reference import kind_page, settings_page

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("zensical.yml")


def build(out: Path) -> None:
    """The site in the folder `out`, made anew. Raises CalledProcessError; Zensical says on the terminal why."""
    work = out.with_name(f"{out.name}-pages")
    shutil.rmtree(work, ignore_errors=True)
    repository = _repository()
    nav = assemble(work / "pages", f"{repository}/blob/main" if repository else "")
    added = {"nav": nav, "docs_dir": "pages", "site_dir": "site"} | ({"repo_url": repository} if repository else {})
    (work / "zensical.yml").write_text(CONFIG.read_text() + yaml.safe_dump(added))
    program = peer_python("site").with_name("zensical")
    subprocess.run([str(program), "build", "--strict", "-f", "zensical.yml"], cwd=work, check=True)
    shutil.rmtree(out, ignore_errors=True)
    (work / "site").rename(out)


def assemble(folder: Path, files_url: str) -> list[dict[str, list[str]]]:
    """Writes all pages into the folder; the navigation as Zensical wants it. `files_url`: as for `pages.relinked`."""
    found = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    sections = all_pages(found)
    pictures = {path: path.removeprefix("docs/") for path in _pictures()}
    named = {page.source: page.target for pages in sections.values() for page in pages if page.source}
    targets = named | pictures
    folder.mkdir(parents=True)
    for source, target in pictures.items():
        shutil.copyfile(ROOT / source, folder / target)
    for pages in sections.values():
        for page in pages:
            path = folder / page.target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_text(page, targets, files_url))
    return [{section: [page.target for page in pages]} for section, pages in sections.items()]


def _pictures() -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.png")]


def _text(page: Page, targets: dict[str, str], files_url: str) -> str:
    if page.source:
        return relinked((ROOT / page.source).read_text(), page, targets, files_url)
    name = Path(page.target).stem
    if name == "settings":
        return settings_page()
    return kind_page(yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text()))


def _repository() -> str:
    """Where the source is published; empty as long as the package does not say."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project.get("urls", {}).get("Source", ""))
