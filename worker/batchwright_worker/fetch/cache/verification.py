"""Is an entry what it was when it was put there? Every byte is read, as the load that follows would anyhow."""

from __future__ import annotations

import os
from pathlib import Path

from batchwright_worker.artifacts.digest import file_sha256
from batchwright_worker.artifacts.names import ArtifactError
from batchwright_worker.fetch.cache.layout import CachedFile, Entry


def damage_of(content: Path, entry: Entry) -> str:
    """The first fault in words, empty if there is none. Blocks for as long as reading takes."""
    found = {Path(root, name).relative_to(content).as_posix() for root, _, names in os.walk(content) for name in names}
    for name in sorted(found ^ entry.files.keys()):
        return f"{name} is missing" if name in entry.files else f"{name} does not belong there"
    faults = (_fault(content / name, file) for name, file in entry.files.items())
    return next((fault for fault in faults if fault), "")


def _fault(path: Path, file: CachedFile) -> str:
    try:
        if path.is_symlink() or path.stat().st_size != file.size:
            return f"{path.name} is not {file.size} bytes long"
        found = file_sha256(path)
    except (OSError, ArtifactError) as error:
        return f"{path.name} cannot be read ({error})"
    return "" if found == file.sha256 else f"{path.name} has other contents"
