"""How a data set is cut into shards: the same input gives the same shards. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Items `start` .. `start + count - 1` of the source with this number."""

    source: int
    start: int
    count: int


def split(counts: Sequence[int], shard_size: int) -> list[tuple[Segment, ...]]:
    """Cut sources of these item counts, in their order, into shards of `shard_size` items (the last may be smaller).

    Every item is in exactly one segment, segments keep the order of the input, no segment is empty.
    """
    if shard_size < 1:
        raise ValueError(f"shardSize is {shard_size}: it must be at least 1")
    return list(_shards(counts, shard_size))


def _shards(counts: Sequence[int], shard_size: int) -> Iterator[tuple[Segment, ...]]:
    shard: list[Segment] = []
    room = shard_size
    for source, count in enumerate(counts):
        start = 0
        while start < count:
            taken = min(room, count - start)
            shard.append(Segment(source=source, start=start, count=taken))
            start += taken
            room -= taken
            if not room:
                yield tuple(shard)
                shard, room = [], shard_size
    if shard:
        yield tuple(shard)
