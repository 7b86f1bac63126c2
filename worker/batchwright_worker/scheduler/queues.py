"""The batch queues: one per model (method B4), grouped by shape bucket, bounded. Pure.

Rows of one bucket may share a batch. A request of many rows may be split over batches; it is known by its key and
the caller puts the pieces together. `order` decides which queue goes first.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from msgspec import Struct

Bucket = Hashable


class IsolatedBucket(Struct, frozen=True):
    """A bucket of rows of one shape that share no batch with others of that shape (see `engine/suspects`)."""

    shape: Bucket
    group: int


def shape_of(bucket: Bucket) -> Bucket:
    """The bucket of shapes that its rows belong to."""
    return bucket.shape if isinstance(bucket, IsolatedBucket) else bucket


MIDDLE_PRIORITY = 1 << 31
"""Where priority 0 (the default) stands among Triton's priorities (1 is served first)."""


class QueuedRequest(Struct, kw_only=True):
    """A request in a queue: `start` is the first row that is not yet in a batch. `drop_after`: when a batch would
    end later than this, the request is late (None: it waits however long)."""

    key: int
    rows: int
    arrival: float
    bucket: Bucket = ()
    priority: int = 0
    drop_after: float | None = None
    start: int = 0
    removed: bool = False

    @property
    def left(self) -> int:
        return self.rows - self.start

    @property
    def rank(self) -> tuple[int, float, int]:
        """Priority, then arrival, then the order of keys."""
        return (self.priority or MIDDLE_PRIORITY, self.arrival, self.key)


class Slice(Struct, frozen=True, gc=False):
    """Rows [start, start + rows) of the request `key`."""

    key: int
    start: int
    rows: int


@dataclass(slots=True)
class Group:
    """Requests of one bucket in order of rank; `rows` counts those that wait (cancelled ones not), `bounded` the
    requests among them that have a `drop_after`."""

    entries: list[QueuedRequest] = field(default_factory=list)
    rows: int = 0
    head: int = 0
    bounded: int = 0

    def push(self, entry: QueuedRequest) -> None:
        entries = self.entries
        last = entries[-1] if entries else None
        if last is None or (
            last.priority == entry.priority and last.arrival <= entry.arrival and last.key <= entry.key
        ):
            entries.append(entry)
        else:
            insort(entries, entry, lo=self.head, key=lambda other: other.rank)
        self.rows += entry.rows - entry.start
        if entry.drop_after is not None:
            self.bounded += 1

    def first(self) -> QueuedRequest | None:
        """The request that is next, None if there is none."""
        entries = self.entries
        while self.head < len(entries) and entries[self.head].removed:
            self.head += 1
        if self.head > 64 and self.head * 2 > len(entries):
            del entries[: self.head]
            self.head = 0
        return entries[self.head] if self.head < len(entries) else None

    def waiting(self) -> Iterator[QueuedRequest]:
        """All that wait, in order."""
        return (entry for entry in islice(self.entries, self.head, None) if not entry.removed)

    def take(self, rows: int) -> list[Slice]:
        """Remove up to `rows` rows from the front."""
        taken: list[Slice] = []
        while rows > 0 and (entry := self.first()) is not None:
            start, part = entry.start, entry.rows - entry.start
            if part <= rows:
                entry.removed = True
                self.head += 1
                if entry.drop_after is not None:
                    self.bounded -= 1
            else:
                part = rows
            taken.append(Slice(entry.key, start, part))
            entry.start = start + part
            self.rows -= part
            rows -= part
        return taken


@dataclass(slots=True)
class ModelQueue:
    """One model's queue. `passed_over` counts how often others were served although it was to be tried first."""

    model: str
    limit: int
    """Most rows that may wait."""
    groups: dict[Bucket, Group] = field(default_factory=dict)
    entries: dict[int, QueuedRequest] = field(default_factory=dict)
    rows: int = 0
    last_served: float = -math.inf
    passed_over: int = 0

    def has_room(self, rows: int) -> bool:
        """May `rows` more wait? An empty queue takes a request of any size."""
        return self.rows == 0 or self.rows + rows <= self.limit

    def push(self, entry: QueuedRequest) -> None:
        """Add a request; the caller has asked `has_room`."""
        self.groups.setdefault(entry.bucket, Group()).push(entry)
        self.entries[entry.key] = entry
        self.rows += entry.left

    def remove(self, key: int) -> int:
        """Take what is left of a request out (its caller has disconnected, or it is late); the number of rows freed."""
        entry = self.entries.pop(key, None)
        if entry is None or entry.removed:
            return 0
        group = self.groups[entry.bucket]
        entry.removed = True
        group.rows -= entry.left
        if entry.drop_after is not None:
            group.bounded -= 1
        self.rows -= entry.left
        self._tidy(entry.bucket)
        return entry.left

    def take(self, bucket: Bucket, rows: int, now: float) -> list[Slice]:
        """The next rows of a bucket, at most `rows`, as a batch that starts now."""
        taken = self.groups[bucket].take(rows)
        self.rows -= sum(part.rows for part in taken)
        for part in taken:
            if self.entries[part.key].removed:
                del self.entries[part.key]
        self._tidy(bucket)
        self.last_served = now
        self.passed_over = 0
        return taken

    def late(self, bucket: Bucket, end: Callable[[int], float], cap: int) -> list[int]:
        """Keys of the requests that a batch of up to `cap` rows, ending at `end(rows)`, answers too late.

        All that would be in it are looked at, not only those before the first in time: deadlines of the callers' own,
        and priorities, leave no order among them.
        """
        group = self.groups[bucket]
        if not group.bounded:
            return []
        late: list[int] = []
        rows, taken, ends = group.rows, 0, end(min(group.rows, cap))
        for entry in group.waiting():
            if taken >= cap:
                break
            if entry.drop_after is None or ends <= entry.drop_after:
                taken += entry.left
                continue
            late.append(entry.key)
            rows -= entry.left
            ends = end(min(rows, cap))
        return late

    def next_bucket(self) -> Bucket | None:
        """The bucket whose first request ranks first: order of arrival, so that no shape starves."""
        if len(self.groups) == 1:
            return next(iter(self.groups))
        heads = [(head.rank, bucket) for bucket, group in self.groups.items() if (head := group.first()) is not None]
        return min(heads, key=lambda pair: pair[0])[1] if heads else None

    def head(self, bucket: Bucket) -> QueuedRequest | None:
        """The request of this bucket that is next."""
        group = self.groups.get(bucket)
        return group.first() if group else None

    def _tidy(self, bucket: Bucket) -> None:
        if self.groups[bucket].rows == 0:
            del self.groups[bucket]
