"""A job's output as Arrow: only one that is complete, its parts in the order of the input."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "_manifest.json"


class NotComplete(Exception):  # noqa: N818 - what the output is
    """There is no manifest, or a part is not the one that it names: the data set is not whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A complete output in `folder`; `manifest` is `_manifest.json` (docs/jobs.md)."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def items(self) -> int:
        """Of the input, those that failed included."""
        return int(self.manifest["items"])

    @property
    def failed(self) -> int:
        """How many of them have an error record instead of a result."""
        return int(self.manifest["failed"])

    def table(self) -> pa.Table:
        """All results, one row each; a column that some of them lack is null there. Raises NotComplete if a part has
        been changed since, ValueError where no type of Arrow's holds all values of a column."""
        import pyarrow as pa

        paths = [self._part(part) for part in self.manifest["parts"] if part["succeeded"]]
        read = _parquet if self.manifest["format"] == "parquet" else _jsonl
        try:
            # Not as one data set: its columns and types would be those of the first part, and others dropped.
            return pa.concat_tables(map(read, paths), promote_options="permissive") if paths else pa.table({})
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ValueError(f"the results are no one table: {error}; read {self.folder} by yourself") from error

    def failures(self) -> list[dict[str, Any]]:
        """The error records: `{"id", "position", "error": {"task", "message"}}`."""
        files = [self.folder / part["errors"] for part in self.manifest["parts"] if part["errors"]]
        return [record for path in files for record in _records(path)]

    def _part(self, part: dict[str, Any]) -> Path:
        path = self.folder / str(part["name"])
        if not path.is_file() or path.stat().st_size != part["bytes"]:
            raise NotComplete(f"{path} is not what the manifest says ({part['bytes']} bytes): run the job again")
        return path


def _parquet(path: Path) -> pa.Table:
    from pyarrow import parquet

    return parquet.ParquetFile(path).read()


def _jsonl(path: Path) -> pa.Table:
    """By Python's values: Arrow's own reader takes text for a date where all of it looks like one."""
    import pyarrow as pa

    return pa.Table.from_struct_array(pa.array(_records(path)))


def _records(path: Path) -> list[dict[str, Any]]:
    """Of lines of JSON, plain or compressed as the name says. Only a line feed ends one."""
    import pyarrow as pa

    with pa.input_stream(path, compression="detect") as stream:
        return [json.loads(line) for line in stream.read().split(b"\n") if line]


def read_output(folder: Path | str) -> Output:
    """The output of a job that is complete. Raises NotComplete."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise NotComplete(f"{path} is not there: the job has not ended, or this is no output") from error
    return Output(folder=Path(folder), manifest=manifest)
