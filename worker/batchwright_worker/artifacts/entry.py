"""Which file of a folder is the model."""

from __future__ import annotations

from pathlib import Path

from batchwright_worker.api.formats import FORMATS
from batchwright_worker.artifacts.names import ArtifactError

_SHOWN = 5


def entry_of(format_: str, path: Path) -> Path:
    """Of a folder: the first of the format's file names that is there, else the only file with its suffix, else the one
    where model hubs have it; the folder itself for a format that takes one. Anything else is the model itself. Raises
    ArtifactError."""
    known = FORMATS[format_]
    if not path.is_dir() or not known.entries:
        return path
    for name in known.entries:
        if (path / name).is_file():
            return path / name
    suffix = Path(known.entries[0]).suffix
    found = sorted(each.name for each in path.iterdir() if each.suffix == suffix and each.is_file())
    if len(found) == 1:
        return path / found[0]
    if found:
        raise ArtifactError(
            f"the folder {path} has several {suffix} files ({_shown(found)}): name the model {known.entries[0]}, or "
            "write the uri of the file"
        )
    if known.entry_below and (path / known.entry_below).is_file():
        return path / known.entry_below
    names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in path.iterdir())
    below = sorted(each.relative_to(path).as_posix() for each in path.glob(f"*/*{suffix}"))
    remedy = f"; write the uri of one of {_shown(below)}" if below else ""
    raise ArtifactError(
        f"the folder {path} has no {' or '.join(known.entries)} and no other {suffix} file; there are: {_shown(names)}"
        f"{remedy}"
    )


def _shown(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
