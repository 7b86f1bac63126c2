"""A shard's results: records in input order in a temporary file, then one atomic step that makes it a part.

The statistics of a part lie in `_batchwright/part-00007.DIGEST.json`, written before the part itself: a part is whole
if and only if statistics with its digest exist. A crash between any two steps leaves no part, or a whole one.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import pyarrow as pa

from batchwright_worker.api.messages import ItemFailure, TaskState
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.outputs.arrow_types import storable, unified
from batchwright_worker.runner.outputs.part_files import PartFile, part_file
from batchwright_worker.runner.outputs.records import BlockResults, EncodedBlock
from batchwright_worker.runner.outputs.temporaries import temporary_path
from batchwright_worker.runner.storage.locations import (
    ERRORS_DIR,
    WORK_DIR,
    Location,
    commit_file,
    output_errors,
    remove,
    sync_file,
    write_atomically,
)
from batchwright_worker.runner.storage.plan_file import part_name

_DIGEST_CHARACTERS = 16
_BUFFER = 1 << 20


class PartStatistics(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """What is known of a whole part; `digest` is the SHA-256 of its file, `plan` the key of the plan it belongs to."""

    name: str
    plan: str
    items: int
    succeeded: int
    failed: int
    bytes: int
    digest: str
    schema: str = ""
    """Arrow's, of Parquet parts, as `encoded_schema` writes it."""
    errors: str = ""
    """File of the error records below the output; empty where no item failed."""
    tasks: list[TaskState] = []
    failures: list[ItemFailure] = []


class MadePart(NamedTuple):
    """A part on its way to its name; see `PartStatistics`."""

    name: str
    bytes: int
    digest: str
    schema: str
    errors: str


class PartWriter:
    """Takes blocks of results in any order, writes them in input order; `finish` makes the part, and beside it the
    file of its error records."""

    def __init__(self, output: Location, index: int, suffix: str) -> None:
        self._output = output
        self._suffix = suffix
        self.name = part_name(index, suffix)
        self._path = temporary_path(output, self.name)
        self._waiting: dict[int, EncodedBlock] = {}
        self._error_path = self._path.with_suffix(".errors.tmp")
        self._errors: BinaryIO | None = None
        self.waiting = 0
        self._file: PartFile | None = None
        self.next_item = 0
        self.waiting_bytes = 0

    def __enter__(self) -> PartWriter:
        with output_errors(self._output):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = part_file(self._path, self._suffix)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk says so again; the file goes anyway
                self._file.abandon()
        if self._errors is not None:
            self._errors.close()
        self._path.unlink(missing_ok=True)
        self._error_path.unlink(missing_ok=True)

    def put(self, block: BlockResults) -> None:
        """Take the results of consecutive items; those that cannot be written are added to the block's failures."""
        assert self._file is not None
        encoded = self._file.encode(block)
        self._waiting[block.first] = encoded
        self.waiting += encoded.count
        self.waiting_bytes += encoded.nbytes
        with output_errors(self._output):
            while (ready := self._waiting.pop(self.next_item, None)) is not None:
                self.next_item += ready.count
                self.waiting -= ready.count
                self.waiting_bytes -= ready.nbytes
                self._file.write(ready.records)
                self._write_errors(ready.errors)

    def finish(self, make: Callable[[MadePart], PartStatistics]) -> PartStatistics | None:
        """Make the part. None: another runner was first."""
        assert self._file is not None
        with output_errors(self._output):
            self._file.close()
            sync_file(self._path)
            digest = digest_of_file(self._path)
            made = MadePart(
                name=self.name,
                bytes=self._path.stat().st_size,
                digest=digest,
                schema=encoded_schema(self._file.schema),
                errors=self._finish_errors(digest),
            )
        statistics = make(made)
        write_atomically(self._output, statistics_name(self.name, digest), msgspec.json.encode(statistics))
        return statistics if commit_file(self._output, self.name, self._path) else None

    def _write_errors(self, lines: Sequence[bytes]) -> None:
        if lines:
            if self._errors is None:
                self._errors = self._error_path.open("wb")
            self._errors.write(b"\n".join((*lines, b"")))

    def _finish_errors(self, digest: str) -> str:
        """Error records lie beside those of a runner that may have been faster, under a name of their own."""
        if self._errors is None:
            return ""
        self._errors.close()
        name = errors_name(self.name, digest)
        if self._output.local:
            Path(self._output.at(ERRORS_DIR)).mkdir(exist_ok=True)
        commit_file(self._output, name, self._error_path)
        return name


def encoded_schema(schema: Any) -> str:
    """As text; empty for none."""
    return "" if schema is None else base64.b64encode(schema.serialize()).decode()


def decoded_schema(text: str) -> Any:
    """The reverse."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def common_schema(parts: Iterable[PartStatistics]) -> Any:
    """The schema that holds the records of all of them; None where parts have none."""
    schemas = [decoded_schema(part.schema) for part in parts if part.schema]
    return storable(unified(schemas)) if schemas else None


def has_schema(part: PartStatistics, schema: Any) -> bool:
    """Is the part's schema this one, to the letter?"""
    return bool(decoded_schema(part.schema).equals(schema, check_metadata=True))


def in_form(part: PartStatistics, path: Path, schema: Any) -> PartStatistics:
    """The statistics of a part whose records are in this file, in this schema."""
    return msgspec.structs.replace(
        part, bytes=path.stat().st_size, digest=digest_of_file(path), schema=encoded_schema(schema)
    )


def statistics_name(name: str, digest: str) -> str:
    """Where the statistics of a part with this digest lie."""
    return f"{WORK_DIR}/{name}.{digest[:_DIGEST_CHARACTERS]}.json"


def errors_name(name: str, digest: str) -> str:
    """Where the error records of a part with this digest lie."""
    return f"{ERRORS_DIR}/{name.partition('.')[0]}-{digest[:_DIGEST_CHARACTERS]}.jsonl"


def whole_part(output: Location, name: str, plan: str) -> PartStatistics | None:
    """Statistics of the part of this name if it is there, whole, and of this plan (by its key)."""
    digest = _digest_of_part(output, name)
    if digest is None:
        return None
    raw = output.read(statistics_name(name, digest))
    if raw is None:
        return None
    try:
        statistics = msgspec.json.decode(raw, type=PartStatistics)
    except msgspec.MsgspecError:
        return None
    return statistics if statistics.digest == digest and statistics.plan == plan else None


def parts_made(output: Location) -> set[str]:
    """Names of the parts that were ever made here: they have statistics."""
    with output_errors(output):
        try:
            paths = output.fs.ls(output.at(WORK_DIR), detail=False)
        except FileNotFoundError:
            return set()
    names = (str(path).rpartition("/")[2] for path in paths)
    return {name.rsplit(".", 2)[0] for name in names if name.startswith("part-")}


def drop_damaged(output: Location, name: str, plan: str) -> None:
    """Remove a part that is not whole (cut off or changed by others) or of another plan, so that it can be made again.
    Raises StepFailed(OutputInUse) for a file of this name that no runner of ours has made."""
    with output_errors(output):
        if not output.exists(name):
            return
        if name not in parts_made(output):
            message = f"{output.uri}/{name} is in the way and was not made by this job: move it somewhere else"
            raise StepFailed("OutputInUse", message)
        if whole_part(output, name, plan) is None:  # it was not there a moment ago: another runner may have made it
            remove(output, name)


def remove_errors(output: Location, kept: Collection[str] = ()) -> None:
    """Remove error records but these: of runners that were not the first, or of parts that are gone."""
    with output_errors(output):
        try:
            paths = output.fs.ls(output.at(ERRORS_DIR), detail=False)
        except FileNotFoundError:
            return
    for path in paths:
        name = str(path).rpartition("/")[2]
        if name.startswith("part-") and f"{ERRORS_DIR}/{name}" not in kept:
            remove(output, f"{ERRORS_DIR}/{name}")


def replace_part(output: Location, part: PartStatistics, temporary: Path, schema: Any) -> PartStatistics:
    """Put another form of the same records in the place of a whole part; a crash leaves the one or the other."""
    with output_errors(output):
        sync_file(temporary)
        changed = in_form(part, temporary, schema)
        write_atomically(output, statistics_name(part.name, changed.digest), msgspec.json.encode(changed))
        if output.local:
            temporary.replace(output.at(part.name))
        else:
            output.fs.put_file(str(temporary), output.at(part.name))
            temporary.unlink()
    return changed


def _digest_of_part(output: Location, name: str) -> str | None:
    with output_errors(output):
        try:
            with output.fs.open(output.at(name), "rb") as file:
                return _digest(file)
        except FileNotFoundError:
            return None


def digest_of_file(path: Path) -> str:
    """SHA-256 of a local file."""
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(_BUFFER):
        yield block
