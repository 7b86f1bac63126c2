"""Names of files within an artifact: relative, with slashes, and never out of its folder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

SUMS: Final = "SHA256SUMS"
"""The index of a folder, as `sha256sum` writes it; what it says is about the folder, so it is no part of it."""
MOST_FILES: Final = 10_000
_LONGEST: Final = 1024
_UNUSABLE: Final = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")


class ArtifactError(Exception):
    """These files are no artifact; the message says what to change."""


def checked_name(name: str, where: str) -> str:
    """The name in its plain form (`./a` is `a`). Raises ArtifactError for one that leaves the folder, or that no file
    should have; `where` says who names it."""
    plain = name.removeprefix("./")
    parts = plain.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ArtifactError(f"{where} names {name!r}: only files below its own folder may be named, without ..")
    if _UNUSABLE.search(plain) or len(plain.encode()) > _LONGEST:
        raise ArtifactError(
            f"{where} names {name[:200]!r}: write a shorter name, in UTF-8, without control characters and backslashes"
        )
    return plain


def checked_names(names: Iterable[str], where: str) -> list[str]:
    """All of them, sorted by their bytes (as LC_ALL=C sorts). Raises ArtifactError also for too many, for one that
    comes twice, and for one that is a file and a folder."""
    found = sorted((checked_name(name, where) for name in names), key=str.encode)
    if len(found) > MOST_FILES:
        raise ArtifactError(f"{where} names {len(found)} files, at most {MOST_FILES} are taken: pack or split it")
    known = set(found)
    if len(known) < len(found):
        twice = next(one for one, next_one in pairwise(found) if one == next_one)
        raise ArtifactError(f"{where} names {twice!r} twice")
    for name in found:
        parent = name.rpartition("/")[0]
        while parent:
            if parent in known:
                raise ArtifactError(f"{where} names {parent!r} as a file and as the folder of {name!r}")
            parent = parent.rpartition("/")[0]
    return found
