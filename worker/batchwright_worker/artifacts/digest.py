"""The one digest of an artifact, whatever it consists of.

Of a single file: its SHA-256. Of several, a folder's or a model file's with those that it names: the SHA-256 of the
lines `SHA256  NAME`, sorted by the bytes of the names, which are relative to the folder; without its index, SHA256SUMS.
The shell agrees, in a folder without one:

    find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from batchwright_worker.artifacts.companions import companions
from batchwright_worker.artifacts.names import SUMS, ArtifactError, checked_name, checked_names

_LINE: Final = re.compile(r"([0-9a-f]{64}) [ *](.+)")
"""As GNU sha256sum writes it, text or binary."""


def digest_of(path: Path, format_: str) -> str:
    """Of a file of this format with its companions, or of a folder. Raises ArtifactError, OSError."""
    return digest_over(sums_of(path, format_)) if path.is_dir() or companions(format_, path) else file_sha256(path)


def sums_of(path: Path, format_: str) -> dict[str, str]:
    """Name -> SHA-256 of every file of the artifact, sorted; a single file by its own name. Raises ArtifactError,
    OSError."""
    folder = path if path.is_dir() else path.parent
    names = _files_of(path) if path.is_dir() else [path.name, *companions(format_, path)]
    return {name: file_sha256(folder / name) for name in checked_names(names, path.name)}


def digest_over(sums: Mapping[str, str]) -> str:
    """The digest of several files from those of each."""
    return hashlib.sha256(lines(sums).encode()).hexdigest()


def lines(sums: Mapping[str, str]) -> str:
    """As in a SHA256SUMS file."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums, key=str.encode))


def parsed_lines(text: str) -> dict[str, str]:
    """Name -> SHA-256 of a SHA256SUMS file, by checked names. Raises ArtifactError."""
    found: dict[str, str] = {}
    # Not at separators that a name may have, as splitlines.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        match = _LINE.fullmatch(line.removesuffix("\r"))
        if match is None:
            raise ArtifactError(f"line {number} of {SUMS} is not `SHA256  NAME`")
        name = checked_name(match[2], SUMS)
        if found.setdefault(name, match[1]) != match[1]:
            raise ArtifactError(f"{SUMS} names {name!r} twice")
    return {name: found[name] for name in checked_names(found, SUMS) if name != SUMS}


def file_sha256(path: Path) -> str:
    """Of one regular file. Raises OSError, ArtifactError."""
    if path.exists() and not path.is_file():
        raise ArtifactError(f"{path} is no regular file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_of(folder: Path) -> list[str]:
    """A link to a file counts as what it leads to, which is what a load reads; one to a folder might never end."""
    found = []
    for root, folders, files in os.walk(folder, onerror=_raised):
        for name in folders:
            if Path(root, name).is_symlink():
                raise ArtifactError(f"{Path(root, name)} is a link to a folder: put the folder itself there")
        found += [Path(root, name).relative_to(folder).as_posix() for name in files]
    return [name for name in found if name != SUMS]


def _raised(error: OSError) -> None:
    raise error
