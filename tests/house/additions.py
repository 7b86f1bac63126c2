"""A copy of the product with something added to it, as a developer would add it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Copy:
    """Both packages below a folder; programs run with `environment` import these."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for package in ("operator", "worker"):
            shutil.copytree(ROOT / package, folder / package)  # with its bytecode: the copies keep their times

    def write(self, path: str, text: str) -> None:
        """A new file; an existing one is not to be replaced."""
        with (self.folder / "worker" / "batchwright_worker" / path).open("x") as file:
            file.write(text)

    def add_row(self, path: str, table: str, row: str) -> None:
        """`row` becomes the last one of `table`, a constant of the module at `path`."""
        module = self.folder / "worker" / "batchwright_worker" / path
        before, start, after = module.read_text().partition(f"\n{table}: Final")
        end = next((line for line in after.splitlines() if line in (")", "}")), "")
        rows, _, rest = after.partition(f"\n{end}\n")
        assert start, f"{path} has no table {table}"
        module.write_text(f"{before}{start}{rows}\n{row}\n{end}\n{rest}")

    def run(self, *arguments: str) -> str:
        """The standard output of Python in the copy."""
        done = subprocess.run(
            [sys.executable, *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def environment(self) -> Mapping[str, str]:
        """Imports find the copy first, and then this repository's tests."""
        path = (self.folder / "operator", self.folder / "worker", ROOT)
        return {**os.environ, "PYTHONPATH": os.pathsep.join(str(each) for each in path)}
