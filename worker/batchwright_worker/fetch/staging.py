"""Where an artifact is put together before it appears under its name, and how many bytes it may take."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from batchwright_worker.fetch.errors import FetchRefused, NoSpace

FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Staging:
    """`whole` holds the files that have arrived, `parts` those on their way, `versions` of which version each is. All
    three have the artifact's names, so that no name of a file can be taken for another's part."""

    root: Path

    def whole(self, name: str) -> Path:
        """Where this file will be complete; its folder exists afterwards. Raises FetchRefused."""
        return self._place("whole", name)

    def part(self, name: str) -> Path:
        """Where its bytes are written. Raises FetchRefused."""
        return self._place("parts", name)

    def version(self, name: str) -> str:
        """Of what is there; empty if that is not known."""
        path = self._place("versions", name)
        return path.read_text() if path.is_file() else ""

    def begin(self, name: str, version: str = "") -> None:
        """This file comes anew, in this version (empty: not known): nothing of it is here. To be called before the
        first byte is written."""
        for kind in ("versions", "parts", "whole"):
            self._place(kind, name).unlink(missing_ok=True)
        if version:
            self._place("versions", name).write_text(version)

    def move_to(self, place: Path) -> None:
        """All that has arrived appears as the folder `place`, by a rename; what was there goes."""
        if place.exists():
            place.rename(self.root / "replaced")
        (self.root / "whole").rename(place)
        self.remove()

    def remove(self) -> None:
        """Nothing of it is left."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _place(self, kind: str, name: str) -> Path:
        path = self.root / kind / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            refusal = NoSpace if error.errno in FULL else FetchRefused
            raise refusal(
                f"{path.parent}: {error.strerror}: the volume for fetched artifacts is not writable"
            ) from error
        return path


@dataclass(slots=True)
class Allowance:
    """artifacts[].maxBytes, over all files of the artifact. `on_growth` is told each larger total before any byte of it
    is written, and may raise FetchRefused."""

    uri: str
    max_bytes: int
    on_growth: Callable[[int], None] | None = None
    _sizes: dict[str, int] = field(default_factory=dict)
    _total: int = 0
    _most: int = 0

    def check(self, name: str, size: int) -> None:
        """This file has, or is to have, so many bytes. Raises FetchRefused."""
        self._total += size - self._sizes.get(name, 0)
        self._sizes[name] = size
        if self._total > self.max_bytes:
            whole = "all of its files" if len(self._sizes) > 1 else "the file"
            raise FetchRefused(
                f"{self.uri}: larger than artifacts[].maxBytes, {self.max_bytes} bytes (at least {self._total}); raise "
                f"it if {whole} should be fetched"
            )
        if self._total > self._most:
            self._most = self._total
            if self.on_growth is not None:
                self.on_growth(self._total)
