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
        """All results, one row each. Raises NotComplete if a part has been changed since."""
        import pyarrow as pa
        import pyarrow.dataset as ds

        paths = [str(self._part(part)) for part in self.manifest["parts"] if part["succeeded"]]
        if not paths:
            return pa.table({})
        kind = "parquet" if self.manifest["format"] == "parquet" else "json"
        return ds.dataset(paths, format=kind).to_table()

    def failures(self) -> list[dict[str, Any]]:
        """The error records: `{"id", "position", "error": {"task", "message"}}`."""
        files = [self.folder / part["errors"] for part in self.manifest["parts"] if part["errors"]]
        return [json.loads(line) for path in files for line in path.read_text().splitlines()]

    def _part(self, part: dict[str, Any]) -> Path:
        path = self.folder / str(part["name"])
        if not path.is_file() or path.stat().st_size != part["bytes"]:
            raise NotComplete(f"{path} is not what the manifest says ({part['bytes']} bytes): run the job again")
        return path


def read_output(folder: Path | str) -> Output:
    """The output of a job that is complete. Raises NotComplete."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise NotComplete(f"{path} is not there: the job has not ended, or this is no output") from error
    return Output(folder=Path(folder), manifest=manifest)
