"""Items of a data set, and what every input format offers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from batchwright_worker.runner.storage.locations import Location
from batchwright_worker.runner.storage.plan_file import PlannedSegment

MAX_ITEM_BYTES: Final = 256 << 20
"""An item larger than this becomes an error record instead of filling the runner's memory."""


class Item(msgspec.Struct, kw_only=True, frozen=True):
    """One input record; `error` says why it could not be read (then `data` is None). `nbytes`: about what `data` holds,
    0 where its reader does not know."""

    id: str
    data: Any = None
    error: str = ""
    nbytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of the input; `name` is its path below the input's directory, the stem of item ids. `digest` is of its
    contents, empty where the fingerprint is already (an etag)."""

    path: str
    name: str
    size: int
    fingerprint: str
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Where shards begin: the item with number n of the whole input begins one if n % size == 0."""

    before: int
    size: int

    def starts_segment(self, index: int) -> bool:
        """Does the item with this number of the present file begin a segment?"""
        return index == 0 or (self.before + index) % self.size == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Items of one file. `marks`: byte offset and line of every item that begins a segment (line formats).

    `ids`: the ids that the records bring along, by hash (`id_hash`), None where ids are unique by construction.
    """

    count: int
    marks: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    ids: Any = None


class Format(Protocol):
    """One input format."""

    suffixes: tuple[str, ...]
    """File names that belong to a data set of this format; a file named in `uri` itself may have any."""

    def measure(self, location: Location, file: SourceFile, cuts: Cuts) -> Measured:
        """Count the items of a file (plan)."""

    def read(self, location: Location, segment: PlannedSegment) -> Iterator[Item]:
        """The items of a segment in order; blocking."""

    def names_with_id(self, location: Location, file: SourceFile, wanted: str) -> Iterator[str]:
        """Places (`data.jsonl:17`) of the records with this id, to name duplicates."""
