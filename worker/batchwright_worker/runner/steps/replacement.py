"""Some parts of a complete data set replaced by others, with its manifest: at once, whatever crashes.

One file says what will replace what (`replacement.json`). Before it stands the old data set does, afterwards the new
one is decided: the parts are moved to their names and the manifest is written last, by whoever comes next if need be.
Every part is the old or the new one at any time.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from batchwright_worker.runner.outputs.parts import remove_errors
from batchwright_worker.runner.steps.commit import Manifest, manifest_text
from batchwright_worker.runner.storage.locations import (
    Location,
    create,
    output_errors,
    remove,
    sync_file,
    write_atomically,
)
from batchwright_worker.runner.storage.plan_file import MANIFEST_NAME
from batchwright_worker.runner.storage.retry_files import (
    MERGED_DIR,
    REPLACEMENT_NAME,
    RETRY_DIR,
    Replacement,
    read_replacement,
)


@contextlib.contextmanager
def staging(output: Location) -> Iterator[Path]:
    """An empty folder of this machine: the very one of the output, on a file system."""
    if not output.local:
        with tempfile.TemporaryDirectory(prefix="batchwright-merged-") as elsewhere:
            yield Path(elsewhere)
        return
    folder = Path(output.at(MERGED_DIR))
    with output_errors(output):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder


def decide_replacement(output: Location, folder: Path, manifest: Manifest) -> None:
    """From its last line on, the new data set is the one."""
    names = sorted(path.name for path in folder.iterdir())
    with output_errors(output):
        for name in names:
            if output.local:
                sync_file(folder / name)
            else:
                output.fs.put_file(str(folder / name), output.at(f"{MERGED_DIR}/{name}"))
    replacement = Replacement(parts=names, manifest=manifest_text(manifest).decode())
    create(output, REPLACEMENT_NAME, msgspec.json.encode(replacement))


def finish_replacement(output: Location) -> None:
    """Move the merged parts to their names and write the manifest, if that was decided; begun twice it does no harm."""
    replacement = read_replacement(output)
    if replacement is None:
        return
    with output_errors(output):
        for name in replacement.parts:
            _move(output, f"{MERGED_DIR}/{name}", name)
    raw = replacement.manifest.encode()
    write_atomically(output, MANIFEST_NAME, raw)
    with output_errors(output):
        remove_errors(output, {part.errors for part in msgspec.json.decode(raw, type=Manifest).parts})
        remove(output, RETRY_DIR)
        remove(output, REPLACEMENT_NAME)


def _move(output: Location, source: str, target: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # it was moved before
        if output.local:
            Path(output.at(source)).replace(output.at(target))
        else:
            output.fs.cp_file(output.at(source), output.at(target))
            output.fs.rm_file(output.at(source))
