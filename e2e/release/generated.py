"""Files of the repository that are written from others: how they differ, and the command that writes or checks them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """Files below a folder: `files` makes path -> text. `source`: what they are written from, for messages."""

    what: str
    source: str
    folder: Path
    files: Callable[[], Mapping[str, str]]

    def differences(self) -> Iterator[str]:
        """Lines of a diff between what lies in the folder and what should."""
        for name, text in self.files().items():
            path = self.folder / name
            found = path.read_text() if path.exists() else ""
            yield from difflib.unified_diff(found.splitlines(), text.splitlines(), str(path), "generated", lineterm="")

    def write(self) -> None:
        """Write them all, as they should be."""
        for name, text in self.files().items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def command(self) -> click.Command:
        """`--write | --check`; the check exits 1 and prints the diff if there is one."""

        @click.command(help=f"Write or check {self.what}.")
        @click.option("--write", "action", flag_value="write", help="Write the files.")
        @click.option(
            "--check", "action", flag_value="check", default=True, help="Compare them, exit 1 if they differ."
        )
        def main(action: str) -> None:
            if action == "write":
                self.write()
            elif lines := list(self.differences()):
                click.echo("\n".join(lines))
                raise click.ClickException(f"{self.what} differ from {self.source}: run `make generate`")

        return main
