"""The commands of the pages, read out of them: blocks fenced as `sh`, and commands within a sentence. In examples' YAML
comments that are indented as code stand for blocks."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("e2e/*/README.md"))
    if path.name != "CHANGELOG.md"
)
EXAMPLES = sorted(path for path in ROOT.glob("examples/**/*.yaml") if "\n#   " in path.read_text())
PROGRAMS = (
    "make",
    "kubectl",
    "batchwright-worker",
    "batchwright-operator",
    "python",
    "pytest",
    "docker",
    "curl",
    "pip",
)
_COMMAND = re.compile(rf"(?:\$ |\.venv/bin/)?(?:{'|'.join(PROGRAMS)}) \S")
_FENCE = re.compile(r"^```(\w*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block; `lines` are logical ones: continued lines joined, comments left out."""

    page: str
    number: int
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """The commands as they are typed, without comments."""
        whole = self.text.replace("\\\n", "")
        return [line for raw in whole.splitlines() if (line := re.sub(r"(^|\s+)#\s.*$", "", raw).strip())]


def name_of(page: Path) -> str:
    """A page as tests and tables name it."""
    return page.relative_to(ROOT).as_posix()


def clone(folder: Path) -> None:
    """Makes the folder: the repository as a clone would be."""
    made = shutil.ignore_patterns(".*_cache", "__pycache__", "*.egg-info")
    top = {".git", ".venv", ".hypothesis", "build", "dist"}
    shutil.copytree(ROOT, folder, ignore=lambda at, names: {*made(at, names), *(top if Path(at) == ROOT else ())})


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found: list[Block] = []
    language, inside, begin = "", [], 0
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence and not begin:
            language, inside, begin = fence[1], [], number
        elif fence:
            found.append(Block(page=name_of(page), number=begin, language=language, text="\n".join(inside)))
            begin = 0
        elif begin:
            inside.append(line)
    return found


def scripts(page: Path) -> list[Block]:
    """The blocks to type."""
    if page.suffix == ".yaml":
        text = "\n".join(re.findall(r"^#   (.*)$", page.read_text(), flags=re.M))
        return [Block(page=name_of(page), number=1, language="sh", text=text)]
    return [block for block in blocks(page) if block.language == "sh"]


def astray(page: Path) -> list[str]:
    """Lines that are commands to type, but stand in no block of `sh`: nothing would run them."""
    text = page.read_text()
    for block in blocks(page):
        text = text.replace(block.text, "")
    outside = [line for line in text.splitlines() if line.startswith(("    ", "\t", "$ "))]
    others = [line for block in blocks(page) if block.language != "sh" for line in block.text.splitlines()]
    return [line for line in (*outside, *others) if _COMMAND.match(line.strip())]


def inline(page: Path) -> Iterator[str]:
    """Commands in backticks within sentences and tables, on one line each."""
    text = page.read_text()
    for block in blocks(page):
        text = text.replace(block.text, "")
    for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
        command = " ".join(found.split())
        if _COMMAND.match(command):
            yield command
