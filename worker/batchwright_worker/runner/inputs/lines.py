"""Formats with one item per line: jsonl and text. Blank lines are no items; a line is found again by its offset."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

import msgspec

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.items import MAX_ITEM_BYTES, Cuts, Item, Measured, SourceFile, id_hash
from batchwright_worker.runner.storage.locations import Location
from batchwright_worker.runner.storage.plan_file import PlannedSegment

_BLOCK = 1 << 20


class _Named(msgspec.Struct):
    id: str | int | None = None


_NAMES = msgspec.json.Decoder(_Named)
_RECORDS = msgspec.json.Decoder()


class TextLines:
    """text: each line is an item, its payload a str; ids are `name:line`."""

    suffixes: tuple[str, ...] = (".txt",)

    def measure(self, location: Location, file: SourceFile, cuts: Cuts) -> Measured:
        """Count non-blank lines and mark where segments begin."""
        marks: dict[int, tuple[int, int]] = {}
        ids: Any = self.new_ids()
        count = 0
        for offset, number, line in _lines(location, file.path):
            if cuts.starts_segment(count):
                marks[count] = (offset, number)
            if ids is not None:
                ids.append(id_hash(self.item(line, f"{file.name}:{number}", name_only=True).id))
            count += 1
        return Measured(count=count, marks=marks, ids=ids)

    def read(self, location: Location, segment: PlannedSegment) -> Iterator[Item]:
        """The items of a segment, from its offset on."""
        left = segment.count
        for _, number, line in _lines(location, segment.path, segment.offset, segment.line):
            yield self.item(line, f"{segment.name}:{number}")
            left -= 1
            if not left:
                return

    def names_with_id(self, location: Location, file: SourceFile, wanted: str) -> Iterator[str]:
        """Places of the records with this id."""
        for _, number, line in _lines(location, file.path):
            place = f"{file.name}:{number}"
            if self.item(line, place, name_only=True).id == wanted:
                yield place

    def new_ids(self) -> Any:
        """Ids of lines are unique by construction."""
        return None

    def item(self, line: bytes, place: str, *, name_only: bool = False) -> Item:
        """The item of a line; `name_only` leaves the payload out."""
        if name_only:
            return Item(id=place)
        try:
            return Item(id=place, data=line.decode())
        except UnicodeDecodeError as error:
            return Item(id=place, error=f"not UTF-8: byte {error.start} of the line; write the file as UTF-8")


class JsonLines(TextLines):
    """jsonl: each line is an object; its id is the field `id` (a string or whole number) if it has one."""

    suffixes: tuple[str, ...] = (".jsonl", ".ndjson", ".json")

    def new_ids(self) -> Any:
        """Hashes of the records' own ids."""
        return array("q")

    def item(self, line: bytes, place: str, *, name_only: bool = False) -> Item:
        """The item of a line; a line that is no JSON object is an item with an error."""
        try:
            named = _NAMES.decode(line)
            name = place if named.id is None else str(named.id)
            return Item(id=name, data=None if name_only else _RECORDS.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return Item(id=place, error=f"not a JSON object with a string or whole number as id: {error}")


def _lines(location: Location, path: str, offset: int = 0, line: int = 1) -> Iterator[tuple[int, int, bytes]]:
    """(offset, number, content) of the non-blank lines of a file, from an offset on, in bounded memory."""
    with location.fs.open(path, "rb") as file:
        file.seek(offset)
        rest = b""
        while block := file.read(_BLOCK):
            *whole, rest = (rest + block).split(b"\n")
            for content in whole:
                if content.strip():
                    yield offset, line, content.rstrip(b"\r")
                offset += len(content) + 1
                line += 1
            if len(rest) > MAX_ITEM_BYTES:
                message = f"{path}: line {line} is longer than {MAX_ITEM_BYTES >> 20} MiB: split the record"
                raise StepFailed("InputInvalid", message)
        if rest.strip():
            yield offset, line, rest.rstrip(b"\r")
