"""A shard's results: records in input order in a temporary file, then one atomic step that makes it a part.

The statistics of a part lie in `_batchwright/part-00007.DIGEST.json`, written before the part itself: a part is whole
if and only if statistics with its digest exist. A crash between any two steps leaves no part, or a whole one.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from batchwright_worker.api.messages import ItemFailure, TaskState
from batchwright_worker.runner.errors import StepFailed, TaskFailed
from batchwright_worker.runner.storage.locations import WORK_DIR, Location, commit_file, output_errors, write_atomically
from batchwright_worker.runner.storage.plan_file import part_name

TEMPORARY_DIR = f"{WORK_DIR}/tmp"  # noqa: S108 - below the output
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
    tasks: list[TaskState] = []
    failures: list[ItemFailure] = []


class RecordEncoder:
    """Records as JSON: the same values give the same bytes; numpy values become lists, bytes base64, NaN null."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder(enc_hook=_plain)

    def success(self, item: str, results: Mapping[str, Any]) -> bytes:
        """`{"id": .., TASK: result, ..}`. Raises TaskFailed if a result cannot be written."""
        try:
            return self._encoder.encode({"id": item, **results})
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise TaskFailed(
                f"the result cannot be written as JSON: {error}; return numbers, text, lists, dicts"
            ) from error

    def failure(self, item: str, task: str, message: str) -> bytes:
        """`{"id": .., "error": {"task": .., "message": ..}}`."""
        return self._encoder.encode({"id": item, "error": {"task": task, "message": message}})


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytearray | memoryview):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no JSON form")


class PartWriter:
    """Takes records in any order of items, writes them in input order; `finish` makes the part."""

    def __init__(self, output: Location, index: int, output_format: str) -> None:
        self._output = output
        self._format = output_format
        self.name = part_name(index, output_format)
        self._path = _temporary(output, self.name)
        self._waiting: dict[int, list[bytes]] = {}
        self.waiting = 0
        self._file: BinaryIO | None = None
        self.next_item = 0
        self.waiting_bytes = 0

    def __enter__(self) -> PartWriter:
        with output_errors(self._output):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb", buffering=_BUFFER)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk says so again; the file goes anyway
                self._file.close()
        self._path.unlink(missing_ok=True)

    def put(self, first: int, records: list[bytes]) -> None:
        """Take the records of consecutive items, the first of which is at this position of the shard."""
        assert self._file is not None
        self._waiting[first] = records
        self.waiting += len(records)
        self.waiting_bytes += sum(map(len, records))
        with output_errors(self._output):
            while (ready := self._waiting.pop(self.next_item, None)) is not None:
                self.next_item += len(ready)
                self.waiting -= len(ready)
                self.waiting_bytes -= sum(map(len, ready))
                self._file.write(b"\n".join((*ready, b"")))

    def finish(self, make: Any) -> PartStatistics | None:
        """Make the part; `make(name, bytes, digest)` gives its statistics. None: another runner was first."""
        assert self._file is not None
        with output_errors(self._output):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._convert()
            statistics: PartStatistics = make(self.name, self._path.stat().st_size, digest_of_file(self._path))
        write_atomically(self._output, statistics_name(self.name, statistics.digest), msgspec.json.encode(statistics))
        return statistics if commit_file(self._output, self.name, self._path) else None

    def _convert(self) -> None:
        if self._format == "parquet":
            from batchwright_worker.runner.outputs.parquet import convert

            convert(self._path)


def _temporary(output: Location, name: str) -> Path:
    folder = Path(output.at(TEMPORARY_DIR)) if output.local else Path(tempfile.gettempdir())
    return folder / f"{name}.{secrets.token_hex(6)}.tmp"


def statistics_name(name: str, digest: str) -> str:
    """Where the statistics of a part with this digest lie."""
    return f"{WORK_DIR}/{name}.{digest[:_DIGEST_CHARACTERS]}.json"


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
    try:
        paths = output.fs.ls(output.at(WORK_DIR), detail=False)
    except FileNotFoundError:
        return set()
    names = (str(path).rpartition("/")[2] for path in paths)
    return {name.rsplit(".", 2)[0] for name in names if name.startswith("part-")}


def drop_damaged(output: Location, name: str) -> None:
    """Remove a part that is not whole (cut off or changed by others), so that it can be made again. Raises
    StepFailed(OutputInUse) for a file of this name that no runner of ours has made."""
    with output_errors(output):
        if not output.exists(name):
            return
        if name not in parts_made(output):
            message = f"{output.uri}/{name} is in the way and was not made by this job: move it somewhere else"
            raise StepFailed("OutputInUse", message)
        output.fs.rm_file(output.at(name))


def remove_temporaries(output: Location) -> None:
    """Remove what killed runners left; only when no runner of this job runs any more."""
    folder = output.at(TEMPORARY_DIR)
    if output.local and output.fs.exists(folder):
        output.fs.rm(folder, recursive=True)


def _digest_of_part(output: Location, name: str) -> str | None:
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
