"""Some items of a plan, as a plan of its own: the first ones, some by chance, or those at some positions. Pure."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence

import msgspec

from batchwright_worker.runner.storage.plan_file import PlannedSegment, PlannedShard


def first_items(shards: Sequence[PlannedShard], items: int) -> list[PlannedShard]:
    """The shards with the first so many items alone."""
    found = []
    for shard in shards:
        if items <= 0:
            break
        taken = picked(shard, range(min(items, shard.items)))
        found.append(taken)
        items -= taken.items
    return found


def sampled(shards: Sequence[PlannedShard], items: int, *, seed: int, shard_size: int) -> list[PlannedShard]:
    """So many items by chance, the same for the same seed, in the order of the input, in shards of at most
    `shard_size`."""
    total = sum(shard.items for shard in shards)
    chosen = iter(sorted(random.Random(seed).sample(range(total), min(items, total))))  # noqa: S311 - no secret
    parts: list[PlannedShard] = []
    first, position = 0, next(chosen, None)
    for shard in shards:
        places = []
        while position is not None and position < first + shard.items:
            places.append(position - first)
            position = next(chosen, None)
        first += shard.items
        if places:
            parts.append(picked(shard, places))
    return list(_joined(parts, shard_size))


def picked(shard: PlannedShard, positions: Sequence[int]) -> PlannedShard:
    """The items of a shard at these positions (from 0, ascending)."""
    segments = []
    first, left = 0, list(positions)
    for segment in shard.segments:
        count = bisect_left(left, first + segment.items)
        if count:
            segments.append(_picked(segment, [each - first for each in left[:count]]))
        left = left[count:]
        first += segment.items
    return PlannedShard(items=sum(segment.items for segment in segments), segments=segments)


def _picked(segment: PlannedSegment, positions: list[int]) -> PlannedSegment:
    picks = [segment.picks[each] for each in positions] if segment.picks else positions
    count = picks[-1] + 1
    return msgspec.structs.replace(segment, count=count, picks=() if len(picks) == count else tuple(picks))


def _joined(shards: Sequence[PlannedShard], most: int) -> Iterator[PlannedShard]:
    """Neighbours as one shard, as long as it does not get larger."""
    segments: list[PlannedSegment] = []
    items = 0
    for shard in shards:
        if segments and items + shard.items > most:
            yield PlannedShard(items=items, segments=segments)
            segments, items = [], 0
        segments = [*segments, *shard.segments]
        items += shard.items
    if segments:
        yield PlannedShard(items=items, segments=segments)
