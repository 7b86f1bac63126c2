"""Rows that wait for a model, grouped by what may share a batch (equal shapes). Pure.

A request carries rows of one group only, since the sidecar batches equal shapes: a full group goes before a part of
one, among these the one whose oldest row waits longest. A group is passed over at most `patience` times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

R = TypeVar("R")


@dataclass(slots=True, kw_only=True)
class _Group(Generic[R]):
    rows: deque[tuple[int, R]] = field(default_factory=deque)
    passed_over: int = 0


class RowQueue(Generic[R]):
    """First in, first out within a group; see the module for the order between groups."""

    def __init__(self, *, patience: int = 8) -> None:
        self._groups: dict[Hashable, _Group[R]] = {}
        self._patience = patience
        self._next = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, group: Hashable, rows: Iterable[R]) -> None:
        """Append rows of one group."""
        waiting = self._groups.setdefault(group, _Group()).rows
        for row in rows:
            waiting.append((self._next, row))
            self._next += 1
            self._length += 1

    def take(self, limit: int) -> list[R]:
        """Remove and give at most `limit` rows of one group; empty if no row waits or the limit is 0."""
        if limit < 1 or not self._groups:
            return []
        key, chosen = min(self._groups.items(), key=lambda entry: self._rank(entry[1], limit))
        oldest = chosen.rows[0][0]
        for group in self._groups.values():
            # Only a group with an older row is passed over: a younger one loses nothing by waiting its turn.
            if group is not chosen and group.rows[0][0] < oldest:
                group.passed_over += 1
        chosen.passed_over = 0
        taken = [chosen.rows.popleft()[1] for _ in range(min(limit, len(chosen.rows)))]
        self._length -= len(taken)
        if not chosen.rows:
            del self._groups[key]
        return taken

    def _rank(self, group: _Group[R], limit: int) -> tuple[int, int]:
        if group.passed_over >= self._patience:
            return 0, group.rows[0][0]
        return (1 if len(group.rows) >= limit else 2), group.rows[0][0]
