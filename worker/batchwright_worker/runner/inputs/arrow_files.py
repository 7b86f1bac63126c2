"""arrow: files of Arrow's IPC format, with or without a footer, as Hugging Face `datasets` folders hold them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec
import pyarrow as pa

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs import arrow_values
from batchwright_worker.runner.inputs.ids import id_hash, ids_in_place
from batchwright_worker.runner.inputs.items import Cuts, Item, Measured, SourceFile
from batchwright_worker.runner.storage.locations import Location, real_path
from batchwright_worker.runner.storage.plan_file import PlannedSegment

_MAGIC: Final = b"ARROW1"
_RECORDS_AT_ONCE: Final = 512
_STATE: Final = "state.json"


class _DatasetState(msgspec.Struct, kw_only=True, frozen=True):
    """What `Dataset.save_to_disk` writes beside its files; rows may be chosen by another file."""

    indices: Any = msgspec.field(name="_indices_files", default=None)
    old_indices: Any = msgspec.field(name="_indices_data_files", default=None)


class Arrow:
    """Records as dicts; the id is column `id_field` if there is one, else `name:record`."""

    suffixes: tuple[str, ...] = (".arrow", ".feather", ".ipc")

    def __init__(self, id_field: str = "id") -> None:
        self._id_field = id_field

    def measure(self, location: Location, file: SourceFile, cuts: Cuts) -> Measured:
        """The number of records, and their ids. Raises StepFailed(InputInvalid) for what is no Arrow file."""
        _check_state(location, file)
        count, ids = 0, array("q")
        has_ids = False
        for batch in _batches(location, file.path):
            if not count:
                arrow_values.check_names(batch.schema, file.path)
            if has_ids := self._id_field in batch.schema.names:
                ids.extend(id_hash(name) for name in self._ids(batch, file.name, count))
            count += batch.num_rows
        return Measured(count=count, ids=ids if has_ids else None)

    def read(self, location: Location, segment: PlannedSegment) -> Iterator[Item]:
        """Records of a segment; those before it are not decoded."""
        first, end = 0, segment.start + segment.count
        for batch in _batches(location, segment.path):
            start = max(segment.start - first, 0)
            chosen = batch.slice(start, max(0, end - first - start))
            for offset in range(0, chosen.num_rows, _RECORDS_AT_ONCE):
                records = chosen.slice(offset, _RECORDS_AT_ONCE)
                yield from arrow_values.batch_items(records, self._id_field, segment.name, first + start + offset)
            first += batch.num_rows
            if first >= end:
                return

    def names_with_id(self, location: Location, file: SourceFile, wanted: str) -> Iterator[str]:
        """Places of the records with this id."""
        first = 0
        for batch in _batches(location, file.path):
            for number, name in enumerate(self._ids(batch, file.name, first), first):
                if name == wanted:
                    yield f"{file.name}:{number}"
            first += batch.num_rows

    def _ids(self, batch: Any, name: str, first: int) -> Iterator[str]:
        return ids_in_place(arrow_values.id_values(batch.column(self._id_field)), name, first)


def _batches(location: Location, path: str) -> Iterator[Any]:
    """In bounded memory: a file of this machine is mapped, another one read batch by batch."""
    source = pa.memory_map(real_path(path)) if location.local else pa.PythonFile(location.open(path), mode="r")
    with source:
        try:
            has_footer = source.read(len(_MAGIC)) == _MAGIC
            source.seek(0)
            if has_footer:
                file = pa.ipc.open_file(source)
                yield from (file.get_batch(number) for number in range(file.num_record_batches))
            else:
                yield from pa.ipc.open_stream(source)
        except (pa.ArrowInvalid, EOFError, OSError) as error:
            message = f"{path} is no whole Arrow file ({error}): correct it, or set input.format"
            raise StepFailed("InputInvalid", message) from error


def _check_state(location: Location, file: SourceFile) -> None:
    """Raise StepFailed(InputInvalid) if the records are not the rows of the data set that was saved."""
    state = str(PurePosixPath(real_path(file.path)).with_name(_STATE))
    try:
        with location.fs.open(state, "rb") as stream:
            found = msgspec.json.decode(stream.read(), type=_DatasetState)
    except (FileNotFoundError, msgspec.MsgspecError):
        return
    if found.indices or found.old_indices:
        message = f"{file.path}: the data set has its rows chosen by another file: call flatten_indices() and save it"
        raise StepFailed("InputInvalid", message)
