"""Rows that wait for a model, grouped by what may share a batch (equal shapes). Pure.

A request carries rows of one group only, since the sidecar batches equal shapes: a full group goes before a part of
one, among these the one whose oldest row waits longest. A group is passed over at most `patience` times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Rows(Protocol):
    """Some rows of one group that can be taken apart."""

    def __len__(self) -> int: ...

    def split(self: R, count: int) -> tuple[R, R]:
        """The first `count` rows, and the others."""


R = TypeVar("R", bound=Rows)


@dataclass(slots=True, kw_only=True)
class _Group(Generic[R]):
    waiting: deque[tuple[int, R]] = field(default_factory=deque)
    rows: int = 0
    passed_over: int = 0


class RowQueue(Generic[R]):
    """First in, first out within a group; see the module for the order between groups."""

    def __init__(self, *, patience: int = 8) -> None:
        self._groups: dict[Hashable, _Group[R]] = {}
        self._patience = patience
        self._next = 0
        self._length = 0

    def __len__(self) -> int:
        """Number of rows."""
        return self._length

    def put(self, key: Hashable, rows: R) -> None:
        """Append rows of one group."""
        group = self._groups.setdefault(key, _Group())
        group.waiting.append((self._next, rows))
        group.rows += len(rows)
        self._next += 1
        self._length += len(rows)

    def take(self, limit: int) -> list[R]:
        """Remove and give at most `limit` rows of one group; empty if no row waits or the limit is 0."""
        if limit < 1 or not self._groups:
            return []
        key, chosen = min(self._groups.items(), key=lambda entry: self._rank(entry[1], limit))
        oldest = chosen.waiting[0][0]
        for group in self._groups.values():
            # Only a group with an older row is passed over: a younger one loses nothing by waiting its turn.
            if group is not chosen and group.waiting[0][0] < oldest:
                group.passed_over += 1
        chosen.passed_over = 0
        taken = self._first(chosen, limit)
        if not chosen.waiting:
            del self._groups[key]
        return taken

    def _first(self, group: _Group[R], limit: int) -> list[R]:
        taken: list[R] = []
        while limit and group.waiting:
            number, rows = group.waiting.popleft()
            if len(rows) > limit:
                rows, rest = rows.split(limit)
                group.waiting.appendleft((number, rest))
            taken.append(rows)
            limit -= len(rows)
            group.rows -= len(rows)
            self._length -= len(rows)
        return taken

    def _rank(self, group: _Group[R], limit: int) -> tuple[int, int]:
        if group.passed_over >= self._patience:
            return 0, group.waiting[0][0]
        return (1 if group.rows >= limit else 2), group.waiting[0][0]
