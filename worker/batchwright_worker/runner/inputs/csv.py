"""csv: one item per record, its payload a dict of texts by the names in the first record of the file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice
from typing import Final

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.ids import BadId, id_of
from batchwright_worker.runner.inputs.items import MAX_ITEM_BYTES, Cuts, Item, Measured, SourceFile
from batchwright_worker.runner.inputs.lines import JsonLines
from batchwright_worker.runner.inputs.streams import COMPRESSED, Line, lines_of
from batchwright_worker.runner.storage.locations import Location
from batchwright_worker.runner.storage.plan_file import PlannedSegment

_OTHERS: Final = ",;\t|"
_QUOTE: Final = b'"'
_TABS: Final = tuple(f".tsv{end}" for end in COMPRESSED)
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
        records = _records(lines_of(location, path, offset, number, keep_returns=True), self._sign(path).encode())
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
            rows = list(_rows(line.content, self._sign(name)))
        except UnicodeDecodeError as error:
            return Item(id=place, error=f"not UTF-8: byte {error.start} of the record; write the file as UTF-8")
        except csv.Error as error:
            count = line.content.count(b"\n") + 1
            lines = f", of {count} lines; is a quote not closed?" if count > 1 else ""
            return Item(id=place, error=f"not a record of CSV{lines}: {error}")
        if len(rows) != 1 or len(rows[0]) != len(names):
            found = f"{len(rows)} records" if len(rows) != 1 else f"{len(rows[0])} values"
            return Item(id=place, error=f"the header has {len(names)} names, here are {found}: check the quotes")
        record = dict(zip(names, rows[0], strict=True))
        try:
            return Item(id=id_of(record.get(self.id_field), place), data=record)
        except BadId as error:
            return Item(id=place, error=str(error))

    def _sign(self, name: str) -> str:
        """By the file's own name, whatever its folders are called."""
        return self._delimiter or ("\t" if name.lower().endswith(_TABS) else ",")

    def _header(self, location: Location, path: str) -> list[str]:
        sign = self._sign(path)
        first = next(_records(lines_of(location, path, keep_returns=True), sign.encode()), None)
        if first is None or first.content is None:
            return []
        try:
            rows = list(islice(_rows(first.content, sign), 2))
        except (UnicodeDecodeError, csv.Error) as error:
            raise StepFailed("InputInvalid", f"{path}: the first record is no header ({error})") from error
        if len(rows) > 1:
            message = f"{path}: its lines end with a carriage return alone: end them with a line feed"
            raise StepFailed("InputInvalid", message)
        names = rows[0] if rows else []
        other = next((each for each in _OTHERS if len(names) == 1 and each != sign and each in names[0]), None)
        if other is not None:
            message = f"{path}: the header {names[0]!r} has no {sign!r} but {other!r}: set input.delimiter"
            raise StepFailed("InputInvalid", message)
        if names[:1] in (["sep="], [f"sep={sign}"]):
            message = f"{path}: its first line is one for Excel (sep=), and no header: remove it"
            raise StepFailed("InputInvalid", message)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise StepFailed("InputInvalid", f"{path}: the header has {twice!r} twice: name each column once")
        return names


def _rows(content: bytes, sign: str) -> Iterator[list[str]]:
    """What the csv module makes of it. Line ends are those that it knows: U+2028 and the like are text."""
    return csv.reader(io.StringIO(content.decode(), newline=""), delimiter=sign, strict=True)


def _records(lines: Iterator[Line], sign: bytes) -> Iterator[Line]:
    """Lines are joined until their quotes are closed; blank ones between records are none."""
    pieces: list[bytes] = []
    begin: Line | None = None
    is_open, size = False, 0
    for line in lines:
        content = line.content
        if begin is None:
            if content is not None and not content.strip() and sign not in content:
                continue
            begin, pieces, is_open, size = line, [], False, 0
        if content is not None:
            pieces.append(content)
            is_open = _ends_in_quotes(content, sign, is_open)
            size += len(content)
        if content is None or size > MAX_ITEM_BYTES:
            yield Line(begin.offset, begin.number, None)
            begin = None
        elif not is_open:
            yield Line(begin.offset, begin.number, b"\n".join(pieces))
            begin = None
    if begin is not None:
        yield Line(begin.offset, begin.number, b"\n".join(pieces))


def _ends_in_quotes(content: bytes, sign: bytes, is_open: bool) -> bool:
    """Is a quoted value open behind this line? A quote opens one only where a value begins, as the csv module has it:
    the one of `1,5" pipe` is a character like others, and the next line another record."""
    if _QUOTE not in content:
        return is_open
    at = 0
    if not is_open and content.startswith(_QUOTE):
        is_open, at = True, 1
    while True:
        if not is_open:
            at = content.find(sign + _QUOTE, at)
            if at < 0:
                return False
            is_open, at = True, at + len(sign) + 1
        at = content.find(_QUOTE, at)
        if at < 0:
            return True
        is_open = content.startswith(_QUOTE, at + 1)  # two of them are one character
        at += 1 + is_open
