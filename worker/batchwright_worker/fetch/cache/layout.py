"""What lies where in the cache, and what an entry says of itself."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

ENTRY_FILE: Final = "entry.json"
CONTENT: Final = "content"
_MOST_REMOVED: Final = 1000


class CachedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an entry; `version` is what its store told it by when it was fetched."""

    size: int
    sha256: str
    uri: str
    version: str = ""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The text of entry.json. `name` is the artifact within `content`, `files` have names relative to `content`."""

    uri: str
    origin: str
    name: str
    files: dict[str, CachedFile]

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below the root of a cache."""

    root: Path

    def make(self) -> None:
        """All folders. Raises OSError."""
        for name in ("entries", "staging", "locks", "trash"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @property
    def lock(self) -> Path:
        """Of what is there."""
        return self.root / "lock"

    @property
    def counters(self) -> Path:
        """What has been counted."""
        return self.root / "counters.json"

    def entry(self, key: str) -> Path:
        """The folder of an entry."""
        return self.root / "entries" / key

    def content(self, key: str) -> Path:
        """The artifact's folder."""
        return self.entry(key) / CONTENT

    def entry_file(self, key: str) -> Path:
        """What is locked."""
        return self.entry(key) / ENTRY_FILE

    def staging(self, prefix: str) -> Path:
        """Where an artifact is put together."""
        return self.root / "staging" / prefix

    def reserved_file(self, prefix: str) -> Path:
        """Bytes that it may come to have."""
        return self.staging(prefix) / "reserved"

    def fetch_lock(self, prefix: str) -> Path:
        """Of the one that fetches it."""
        return self.root / "locks" / prefix

    def entry_keys(self) -> list[str]:
        """Of all entries, whole or not."""
        return _names(self.root / "entries")

    def prefixes(self) -> list[str]:
        """Of all that is being fetched or was broken off."""
        return _names(self.root / "staging")

    def read(self, key: str) -> Entry | None:
        """None: there is no such entry, or it does not say what it is."""
        try:
            return msgspec.json.decode(self.entry_file(key).read_bytes(), type=Entry)
        except (OSError, msgspec.MsgspecError):
            return None

    def reserved_bytes(self, prefix: str) -> int:
        """0 where nothing is reserved."""
        try:
            return int(self.reserved_file(prefix).read_text())
        except (OSError, ValueError):
            return 0

    def last_used_at(self, key: str) -> float:
        """Unix seconds."""
        try:
            return self.entry_file(key).stat().st_mtime
        except OSError:
            return 0.0

    def discard(self, path: Path) -> None:
        """By a rename, which is done at once; `empty_trash` frees the bytes."""
        with contextlib.suppress(FileNotFoundError):
            path.rename(self.root / "trash" / f"{path.name}.{secrets.token_hex(4)}")

    def empty_trash(self) -> None:
        """Also of those who were ended before they could."""
        for name in _names(self.root / "trash")[:_MOST_REMOVED]:
            shutil.rmtree(self.root / "trash" / name, ignore_errors=True)


def written_bytes(folder: Path) -> int:
    """On the disk by now; files that come and go meanwhile count or do not."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += Path(root, name).stat().st_size
    return total


def replace_text(path: Path, text: bytes) -> None:
    """The file has this text or its old one, whatever happens."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with new.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _names(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in os.scandir(folder))
    except FileNotFoundError:
        return []
