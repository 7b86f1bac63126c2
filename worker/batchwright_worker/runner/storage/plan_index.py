"""The plan once more, so that a runner reads its shard alone: `OUTPUT/_batchwright/plan.index`.

A plan of a million files is 80 MB, and each of its runners needs a thousandth of it. The file is

    length of the head, number of shards, the head (the plan without shards, JSON)
    for each shard: where it begins, its length, its SHA-256
    the shards (JSON), one after the other

It is written before the plan itself, and goes with it.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final, NamedTuple

import msgspec

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.storage.locations import WORK_DIR, Location, output_errors, write_atomically
from batchwright_worker.runner.storage.plan_file import PlanFile, PlannedShard

INDEX_NAME: Final = f"{WORK_DIR}/plan.index"
_SIZES: Final = struct.Struct("<QQ")
_ENTRY: Final = struct.Struct("<QQ32s")
_MOST_BYTES: Final = 1 << 31
"""No head and no shard is as large."""
_FIRST_BYTES: Final = 1 << 16
"""Read at once: the sizes, as good as every head, and the entries of a thousand shards."""


class IndexedShard(NamedTuple):
    """One shard (None: there is none of that number), the plan without its shards, and how many these are."""

    shard: PlannedShard | None
    head: PlanFile
    shards: int


def write_index(output: Location, plan: PlanFile) -> None:
    """Write it, whole or not at all."""
    head = msgspec.json.encode(msgspec.structs.replace(plan, shards=[]))
    shards = [msgspec.json.encode(shard) for shard in plan.shards]
    position = _SIZES.size + len(head) + _ENTRY.size * len(shards)
    entries = []
    for shard in shards:
        entries.append(_ENTRY.pack(position, len(shard), hashlib.sha256(shard).digest()))
        position += len(shard)
    write_atomically(output, INDEX_NAME, b"".join((_SIZES.pack(len(head), len(shards)), head, *entries, *shards)))


def read_shard(output: Location, index: int) -> IndexedShard | None:
    """The shard with this number; None where no index was written. Raises StepFailed(PlanDamaged)."""
    with output_errors(output):
        try:
            return _read(_Ranges(output), index)
        except FileNotFoundError:
            return None
        except (struct.error, msgspec.MsgspecError) as error:
            raise StepFailed("PlanDamaged", _damaged(output)) from error


def _read(ranges: _Ranges, index: int) -> IndexedShard:
    size, count = _SIZES.unpack(ranges.read(0, _SIZES.size))
    head = msgspec.json.decode(ranges.read(_SIZES.size, size), type=PlanFile)
    if not 0 <= index < count:
        return IndexedShard(None, head, count)
    begin, length, digest = _ENTRY.unpack(ranges.read(_SIZES.size + size + index * _ENTRY.size, _ENTRY.size))
    raw = ranges.read(begin, length)
    if hashlib.sha256(raw).digest() != digest:
        raise StepFailed("PlanDamaged", _damaged(ranges.output))
    return IndexedShard(msgspec.json.decode(raw, type=PlannedShard), head, count)


class _Ranges:
    """The index's first bytes, and others as they are asked for."""

    def __init__(self, output: Location) -> None:
        self.output = output
        self._first = self._fetched(0, _FIRST_BYTES)

    def read(self, begin: int, length: int) -> bytes:
        """These bytes; fewer where the file ends, none of what is too large to be true."""
        if length > _MOST_BYTES:
            return b""
        if begin + length <= len(self._first):
            return self._first[begin : begin + length]
        return self._fetched(begin, begin + length)

    def _fetched(self, begin: int, end: int) -> bytes:
        return bytes(self.output.fs.cat_file(self.output.at(INDEX_NAME), start=begin, end=end))


def _damaged(output: Location) -> str:
    return f"{output.uri}/{INDEX_NAME} is damaged or of another version: choose another output.uri or empty this one"
