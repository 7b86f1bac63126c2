"""The batch queues: one per model (method B4), grouped by shape bucket, bounded. Pure.

Rows of one bucket may share a batch. A request of many rows may be split over batches; it is known by its key and
the caller puts the pieces together. `order` decides which queue goes first.

Within a queue a higher priority goes first, and the rest by arrival, with one exception: a request of more rows than a
batch takes (`large`) shares each batch equally with the other large ones and with all small ones together, and has its
next turn after all that wait then. So nobody waits for the thousands of rows of one caller, and batches are as full as
ever.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from msgspec import Struct

Bucket = Hashable


class SettingsBucket(Struct, frozen=True):
    """A bucket of rows of one shape whose inputs without a batch dimension are equal, of which `values` is a digest."""

    shape: Bucket
    values: str


class IsolatedBucket(Struct, frozen=True):
    """A bucket of rows of one shape that share no batch with others of that shape (see `engine/suspects`)."""

    shape: Bucket
    group: int


def together(bucket: Bucket) -> Bucket:
    """The bucket that its rows belong to where nothing isolates them."""
    return bucket.shape if isinstance(bucket, IsolatedBucket) else bucket


def shape_of(bucket: Bucket) -> Bucket:
    """The bucket of shapes that its rows belong to: what decides how long they take."""
    bucket = together(bucket)
    return bucket.shape if isinstance(bucket, SettingsBucket) else bucket


MIDDLE_PRIORITY = 1 << 31
"""Where priority 0 (the default) stands among Triton's priorities (1 is served first)."""


def level_of(priority: int) -> int:
    """The priority as a number that ranks: lower goes first."""
    return priority or MIDDLE_PRIORITY


class QueuedRequest(Struct, kw_only=True):
    """A request in a queue: `start` is the first row that is not yet in a batch. `drop_after`: when a batch would
    end later than this, the request is late (None: it waits however long). `large`: it shares by turns; `turn`: when it
    had its last one."""

    key: int
    rows: int
    arrival: float
    bucket: Bucket = ()
    priority: int = 0
    drop_after: float | None = None
    start: int = 0
    removed: bool = False
    large: bool = False
    turn: float = -math.inf

    @property
    def left(self) -> int:
        return self.rows - self.start

    @property
    def rank(self) -> tuple[int, float, int]:
        """Priority, then arrival (or the last turn), then the order of keys."""
        return (self.priority or MIDDLE_PRIORITY, max(self.arrival, self.turn), self.key)


class Slice(Struct, frozen=True, gc=False):
    """Rows [start, start + rows) of the request `key`."""

    key: int
    start: int
    rows: int


@dataclass(slots=True)
class Group:
    """Requests of one bucket in order of rank; `rows` counts those that wait (cancelled ones not), `bounded` the
    requests among them that have a `drop_after`, `large` those that share by turns, `large_rows` their rows. `levels`:
    rows by level, None while all are of one `level`."""

    entries: list[QueuedRequest] = field(default_factory=list)
    rows: int = 0
    head: int = 0
    bounded: int = 0
    large: int = 0
    large_rows: int = 0
    level: int = MIDDLE_PRIORITY
    levels: dict[int, int] | None = None

    def push(self, entry: QueuedRequest) -> None:
        entries = self.entries
        last = entries[-1] if entries else None
        if last is None or (
            last.priority == entry.priority
            and last.arrival <= entry.arrival
            and last.turn <= entry.arrival
            and last.key <= entry.key
        ):
            entries.append(entry)
        else:
            insort(entries, entry, lo=self.head, key=lambda other: other.rank)
        left, level = entry.rows - entry.start, entry.priority or MIDDLE_PRIORITY
        if not self.rows:
            self.level, self.levels = level, None
        elif self.levels is None and level != self.level:
            self.levels = {self.level: self.rows}
        if self.levels is not None:
            self.levels[level] = self.levels.get(level, 0) + left
        self.rows += left
        if entry.large:
            self.large += 1
            self.large_rows += left
        if entry.drop_after is not None:
            self.bounded += 1

    def ahead(self, level: int) -> int:
        """Rows of this level or a higher priority."""
        if self.levels is None:
            return self.rows if self.level <= level else 0
        return sum(rows for other, rows in self.levels.items() if other <= level)

    def last(self) -> QueuedRequest | None:
        """The request that is served last, None if there is none."""
        entries = self.entries
        while len(entries) > self.head and entries[-1].removed:
            entries.pop()
        return entries[-1] if len(entries) > self.head else None

    def remove(self, entry: QueuedRequest) -> None:
        """It will not be served."""
        entry.removed = True
        self._left(entry, entry.rows - entry.start)
        if entry.drop_after is not None:
            self.bounded -= 1

    def _left(self, entry: QueuedRequest, rows: int) -> None:
        """So many rows of it wait no longer."""
        self.rows -= rows
        if self.levels is not None:
            self.levels[entry.priority or MIDDLE_PRIORITY] -= rows
        if entry.large:
            self.large -= rows == entry.rows - entry.start
            self.large_rows -= rows

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

    def take(self, rows: int, now: float) -> list[Slice]:
        """Remove up to `rows` rows from the front, those of large requests by turns."""
        if self.large_rows and self.rows > rows:
            return self._take_by_turns(rows, now)
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
            if self.levels is None and not entry.large:
                self.rows -= part
            else:
                self._left(entry, part)
            entry.start = start + part
            rows -= part
        return taken

    def _take_by_turns(self, room: int, now: float) -> list[Slice]:
        """Each large request has an equal share of the batch, and what nobody else wants."""
        share = max(1, room // (self.large + (self.rows > self.large_rows)))
        taken: dict[int, int] = {}
        chosen: list[QueuedRequest] = []
        for entry in self.waiting():
            if not room:
                break
            part = min(entry.left, room, share) if entry.large else min(entry.left, room)
            taken[entry.key], room = part, room - part
            chosen.append(entry)
        for entry in chosen:
            more = min(entry.left - taken[entry.key], room)
            taken[entry.key], room = taken[entry.key] + more, room - more
        slices = [Slice(entry.key, entry.start, taken[entry.key]) for entry in chosen]
        for entry in chosen:
            self._left(entry, taken[entry.key])
            entry.start += taken[entry.key]
            if not entry.left:
                entry.removed = True
                self.bounded -= entry.drop_after is not None
            elif entry.large:
                self._move_back(entry, now)
        return slices

    def _move_back(self, entry: QueuedRequest, now: float) -> None:
        """Behind all of its priority that wait now."""
        at = next(at for at in range(self.head, len(self.entries)) if self.entries[at] is entry)
        del self.entries[at]
        entry.turn = now
        insort(self.entries, entry, lo=self.head, key=lambda other: other.rank)


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

    def rows_ahead(self, level: int) -> int:
        """Rows of this level or a higher priority."""
        return sum(group.ahead(level) for group in self.groups.values())

    def can_displace(self, level: int, rows: int) -> bool:
        """Would `rows` more have room without requests of lower priority?"""
        lower = self.rows - self.rows_ahead(level)
        return lower > 0 and (lower == self.rows or self.rows - lower + rows <= self.limit)

    def displace(self, level: int, rows: int) -> list[int]:
        """Remove requests of lower priority until `rows` more have room, the lowest first, of these the newest; their
        keys. The caller has asked `can_displace`."""
        keys: list[int] = []
        while not self.has_room(rows):
            lasts = [last for group in self.groups.values() if (last := group.last()) is not None]
            lowest = max(lasts, key=lambda entry: entry.rank)
            if level_of(lowest.priority) <= level:
                break
            self.remove(lowest.key)
            keys.append(lowest.key)
        return keys

    def push(self, entry: QueuedRequest) -> None:
        """Add a request; the caller has asked `has_room`."""
        group = self.groups.get(entry.bucket)
        if group is None:
            group = self.groups[entry.bucket] = Group()
        group.push(entry)
        self.entries[entry.key] = entry
        self.rows += entry.rows - entry.start

    def remove(self, key: int) -> int:
        """Take what is left of a request out (its caller has disconnected, or it is late); the number of rows freed."""
        entry = self.entries.pop(key, None)
        if entry is None or entry.removed:
            return 0
        self.groups[entry.bucket].remove(entry)
        self.rows -= entry.left
        self._tidy(entry.bucket)
        return entry.left

    def take(self, bucket: Bucket, rows: int, now: float) -> list[Slice]:
        """The next rows of a bucket, at most `rows`, as a batch that starts now."""
        group, entries = self.groups[bucket], self.entries
        before = group.rows
        taken = group.take(rows, now)
        self.rows += group.rows - before
        for part in taken:
            if entries[part.key].removed:
                del entries[part.key]
        if not group.rows:
            del self.groups[bucket]
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
        level, taken, dropped, rows, ends = -1, 0, 0, 0, 0.0
        for entry in group.waiting():
            if taken >= cap:
                break
            if (entry.priority or MIDDLE_PRIORITY) != level:
                # A batch is cut short where that keeps those of higher priority in time (see `views`): lower ones do
                # not make them late.
                level = entry.priority or MIDDLE_PRIORITY
                rows = group.ahead(level) - dropped
                ends = end(min(rows, cap))
            if entry.drop_after is None or ends <= entry.drop_after:
                taken += min(entry.left, max(1, cap // 2)) if entry.large else entry.left
                continue
            late.append(entry.key)
            dropped += entry.left
            rows -= entry.left
            ends = end(min(rows, cap))
        return late

    def extend(self, within_s: float, allowed_s: float | None) -> None:
        """Requests that had to be answered `within_s` of their arrival may take `allowed_s` (None: however long)."""
        for entry in self.entries.values():
            if entry.drop_after != entry.arrival + within_s:
                continue  # a bound of its caller's own, or of a request that takes longer alone than any target
            if allowed_s is None:
                entry.drop_after = None
                self.groups[entry.bucket].bounded -= 1
            else:
                entry.drop_after = entry.arrival + allowed_s

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

    def oldest(self) -> float | None:
        """When the request arrived that has waited longest of the first ones of all buckets; None if none waits."""
        heads = (group.first() for group in self.groups.values())
        return min((head.arrival for head in heads if head is not None), default=None)

    def _tidy(self, bucket: Bucket) -> None:
        if self.groups[bucket].rows == 0:
            del self.groups[bucket]
