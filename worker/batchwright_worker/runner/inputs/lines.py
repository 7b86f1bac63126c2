"""Formats with one item per line: jsonl and text. Blank lines are no items; a line is found again by its offset."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator
from itertools import chain, dropwhile
from typing import Any

import msgspec

from batchwright_worker.runner.inputs.ids import BadId, id_hash, id_of
from batchwright_worker.runner.inputs.items import MAX_ITEM_BYTES, Cuts, Item, Measured, SourceFile
from batchwright_worker.runner.inputs.streams import COMPRESSED, Line, is_compressed, lines_of
from batchwright_worker.runner.storage.locations import Location
from batchwright_worker.runner.storage.plan_file import PlannedSegment

_RECORDS = msgspec.json.Decoder()
_MOST_OPEN = 4


class TextLines:
    """text: each line is an item, its payload a str; ids are `name:line`."""

    suffixes: tuple[str, ...] = tuple(f".txt{end}" for end in COMPRESSED)

    def __init__(self) -> None:
        self._open = OpenFiles()

    def measure(self, location: Location, file: SourceFile, cuts: Cuts) -> Measured:
        """Count non-blank lines and mark where segments begin."""
        marks: dict[int, tuple[int, int]] = {}
        ids: Any = self.new_ids()
        count = 0
        for line in self.records(location, file.path):
            if cuts.starts_segment(count):
                marks[count] = (line.offset, line.number)
            if ids is not None:
                ids.append(id_hash(self.item(line, file.name).id))
            count += 1
        return Measured(count=count, marks=marks, ids=ids)

    def read(self, location: Location, segment: PlannedSegment) -> Iterator[Item]:
        """The items of a segment, from its offset on."""
        opened = self._open.taken(segment.path, segment.offset)
        records = opened or self.records(location, segment.path, segment.offset, segment.line)
        left = segment.count
        for line in records:
            yield self.item(line, segment.name)
            left -= 1
            if not left:
                break
        if is_compressed(location, segment.path):
            self._open.put(segment.path, records)

    def names_with_id(self, location: Location, file: SourceFile, wanted: str) -> Iterator[str]:
        """Places of the records with this id."""
        for line in self.records(location, file.path):
            if self.item(line, file.name).id == wanted:
                yield f"{file.name}:{line.number}"

    def records(self, location: Location, path: str, offset: int = 0, number: int = 1) -> Iterator[Line]:
        """The lines that are items."""
        lines = lines_of(location, path, offset, number)
        return (line for line in lines if line.content is None or line.content.strip())

    def new_ids(self) -> Any:
        """Ids of lines are unique by construction."""
        return None

    def item(self, line: Line, name: str) -> Item:
        """The item of a line of the file with this name; a line that cannot be read is an item with an error."""
        place = f"{name}:{line.number}"
        if line.content is None:
            return Item(id=place, error=f"the line is longer than {MAX_ITEM_BYTES >> 20} MiB: split the record")
        return self.parsed(line.content, place)

    def parsed(self, content: bytes, place: str) -> Item:
        """The item of what a line says."""
        try:
            return Item(id=place, data=content.decode(), nbytes=len(content))
        except UnicodeDecodeError as error:
            return Item(id=place, error=f"not UTF-8: byte {error.start} of the line; write the file as UTF-8")


class JsonLines(TextLines):
    """jsonl: each line is an object; its id is the field `id_field`, if it has one; empty: none is looked for."""

    suffixes: tuple[str, ...] = tuple(f"{name}{end}" for name in (".jsonl", ".ndjson", ".json") for end in COMPRESSED)

    def __init__(self, id_field: str = "id") -> None:
        super().__init__()
        self.id_field = id_field

    def new_ids(self) -> Any:
        """Hashes of the records' own ids."""
        return array("q") if self.id_field else None

    def parsed(self, content: bytes, place: str) -> Item:
        """The item of what a line says."""
        try:
            record = _RECORDS.decode(content)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            advice = "; JSON has no NaN or infinity: write null" if b"NaN" in content or b"Infinity" in content else ""
            return Item(id=place, error=f"not a JSON object: {error}{advice}")
        except RecursionError:
            return Item(id=place, error="not a JSON object that can be read: it is nested too deeply")
        if not isinstance(record, dict):
            return Item(id=place, error=f"not a JSON object: the line is a JSON {type(record).__name__}")
        try:
            return Item(id=id_of(record.get(self.id_field), place), data=record, nbytes=len(content))
        except BadId as error:
            return Item(id=place, error=str(error))


class OpenFiles:
    """Records of compressed files that were read up to some place: what begins there or later goes on from it, for to
    find a place in such a file all before it must be read. Thread-safe."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Line, Iterator[Line]]] = {}
        self._lock = threading.Lock()

    def put(self, path: str, records: Iterator[Line]) -> None:
        """Keep what follows the record that was read last."""
        following = next(records, None)
        if following is None:
            return
        with self._lock:
            self._open[path] = (following, records)
            while len(self._open) > _MOST_OPEN:
                self._open.pop(next(iter(self._open)))

    def taken(self, path: str, offset: int) -> Iterator[Line] | None:
        """The records from this offset on, if the file is open at it or before it."""
        with self._lock:
            line, records = self._open.get(path, (None, None))
            if line is None or records is None or line.offset > offset:
                return None
            del self._open[path]
        return dropwhile(lambda each: each.offset < offset, chain((line,), records))
