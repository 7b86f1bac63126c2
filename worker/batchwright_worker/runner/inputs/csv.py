"""csv: one item per record, its payload a dict of texts by the names in the first record of the file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Final

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.ids import BadId, id_of
from batchwright_worker.runner.inputs.items import MAX_ITEM_BYTES, Cuts, Item, Measured, SourceFile
from batchwright_worker.runner.inputs.lines import JsonLines
from batchwright_worker.runner.inputs.streams import COMPRESSED, Line, lines_of
from batchwright_worker.runner.storage.locations import Location
from batchwright_worker.runner.storage.plan_file import PlannedSegment

_OTHERS: Final = ",;\t|"
csv.field_size_limit(MAX_ITEM_BYTES)


class Csv(JsonLines):
    """RFC 4180: a record may go over several lines, in double quotes. Values are texts: a CPU task makes numbers."""

    suffixes: tuple[str, ...] = tuple(f"{name}{end}" for name in (".csv", ".tsv") for end in COMPRESSED)

    def __init__(self, id_field: str = "id", delimiter: str = "") -> None:
        super().__init__(id_field)
        self._delimiter = delimiter
        self._names: dict[str, list[str]] = {}

    def measure(self, location: Location, file: SourceFile, cuts: Cuts) -> Measured:
        """Count records and mark where segments begin. Raises StepFailed(InputInvalid) for a file without a header."""
        self._names[file.name] = self._header(location, file.path)
        return super().measure(location, file, cuts)

    def read(self, location: Location, segment: PlannedSegment) -> Iterator[Item]:
        """The items of a segment."""
        self._names[segment.name] = self._header(location, segment.path)
        yield from super().read(location, segment)

    def records(self, location: Location, path: str, offset: int = 0, number: int = 1) -> Iterator[Line]:
        """The records; a quoted line end is part of one."""
        records = _records(lines_of(location, path, offset, number))
        if not offset:
            next(records, None)  # the header
        return records

    def item(self, line: Line, name: str) -> Item:
        """The item of a record."""
        place = f"{name}:{line.number}"
        if line.content is None:
            return super().item(line, name)
        names = self._names[name]
        try:
            lines = line.content.decode().splitlines(keepends=True)
            rows = list(csv.reader(lines, delimiter=self._sign(name), strict=True))
        except UnicodeDecodeError as error:
            return Item(id=place, error=f"not UTF-8: byte {error.start} of the record; write the file as UTF-8")
        except csv.Error as error:
            return Item(id=place, error=f"not a record of CSV: {error}")
        if len(rows) != 1 or len(rows[0]) != len(names):
            found = f"{len(rows)} records" if len(rows) != 1 else f"{len(rows[0])} values"
            return Item(id=place, error=f"the header has {len(names)} names, here are {found}: check the quotes")
        record = dict(zip(names, rows[0], strict=True))
        try:
            return Item(id=id_of(record.get(self.id_field), place), data=record)
        except BadId as error:
            return Item(id=place, error=str(error))

    def _sign(self, name: str) -> str:
        return self._delimiter or ("\t" if ".tsv" in name.lower() else ",")

    def _header(self, location: Location, path: str) -> list[str]:
        first = next(_records(lines_of(location, path)), None)
        if first is None or first.content is None:
            return []
        sign = self._sign(path)
        try:
            names: list[str] = next(csv.reader(first.content.decode().splitlines(keepends=True), delimiter=sign), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise StepFailed("InputInvalid", f"{path}: the first record is no header ({error})") from error
        other = next((each for each in _OTHERS if len(names) == 1 and each != sign and each in names[0]), None)
        if other is not None:
            message = f"{path}: the header {names[0]!r} has no {sign!r} but {other!r}: set input.delimiter"
            raise StepFailed("InputInvalid", message)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise StepFailed("InputInvalid", f"{path}: the header has {twice!r} twice: name each column once")
        return names


def _records(lines: Iterator[Line]) -> Iterator[Line]:
    """Lines are joined until their quotes are closed; blank ones between records are none."""
    pieces: list[bytes] = []
    begin: Line | None = None
    quotes, size = 0, 0
    for line in lines:
        content = line.content
        if begin is None:
            if content is not None and not content.strip():
                continue
            begin, pieces, quotes, size = line, [], 0, 0
        if content is not None:
            pieces.append(content)
            quotes += content.count(b'"')
            size += len(content)
        if content is None or size > MAX_ITEM_BYTES:
            yield Line(begin.offset, begin.number, None)
            begin = None
        elif not quotes % 2:
            yield Line(begin.offset, begin.number, b"\n".join(pieces))
            begin = None
    if begin is not None:
        yield Line(begin.offset, begin.number, b"\n".join(pieces))
