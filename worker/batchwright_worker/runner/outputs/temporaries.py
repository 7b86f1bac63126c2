"""Where files of an output are made before they get their names, and what runs leave there that are killed."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from batchwright_worker.runner.storage.locations import WORK_DIR, Location, output_errors, remove
from batchwright_worker.runner.storage.plan_file import MANIFEST_NAME
from batchwright_worker.runner.storage.presence import RUNS_DIR, forget_the_dead, running

TEMPORARY_DIR: Final = f"{WORK_DIR}/tmp"  # noqa: S108 - below the output


def temporary_path(output: Location, name: str) -> Path:
    """Where a file of the output is made: beside it, or on this machine's disk for an object store."""
    folder = Path(output.at(TEMPORARY_DIR)) if output.local else Path(tempfile.gettempdir())
    return folder / f"{name}.{secrets.token_hex(6)}.tmp"


def remove_temporaries(output: Location) -> None:
    """Remove what killed runs left, when every part stands. While another run is at work nothing is removed: it may be
    its own, and it comes here, too. Raises StepFailed as `output_errors`."""
    if running(output):
        return
    forget_the_dead(output)
    if output.local:
        remove(output, TEMPORARY_DIR)
        with output_errors(output):
            for path in _left(Path(output.path)):
                path.unlink(missing_ok=True)


def has_temporaries(output: Location) -> bool:
    """Is there anything that `remove_temporaries` may remove? On file systems alone."""
    if not output.local:
        return False
    return any(output.exists(name) for name in (TEMPORARY_DIR, RUNS_DIR)) or any(_left(Path(output.path)))


def _left(folder: Path) -> Iterator[Path]:
    """Files that were on their way to their names, as `write_atomically` calls them."""
    yield from folder.glob(f".{MANIFEST_NAME}.*.tmp")
    yield from (folder / WORK_DIR).rglob(".*.tmp")
