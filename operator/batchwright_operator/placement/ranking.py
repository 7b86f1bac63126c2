"""The order of the nodes that fit one demand, best first, kept while single nodes change. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from batchwright_operator.placement.scoring import Rank, Score

RUNNERS_UP: Final = 3
_Place: TypeAlias = tuple[bool, bool, float, float, str, Score]
"""A node's rank, which ends with its name, and its score: two of them differ before the last element."""


class Pick(msgspec.Struct, frozen=True, kw_only=True):
    """The best candidate and those that came next, best first."""

    best: Score
    runners_up: tuple[Score, ...]


class Ranking:
    """The nodes that fit, in order. `score_of` gives a node's score as of now, or None when there is no such node;
    whatever changes one is to be announced by `touch`.

    A sorted list rather than a heap: the next best few are a slice, a node is found by its rank, and to move 4,000
    pointers costs less than the comparisons that find the place. A pick costs a slice, a touch O(log n) and one score.
    """

    def __init__(self, score_of: Callable[[str], Score | None]) -> None:
        self._score_of = score_of
        self._order: list[_Place] = []
        self._place_of: dict[str, _Place] = {}

    def filling(self, nodes: Sequence[str], at_once: int) -> Iterator[None]:
        """Puts all of these in, in place of what is there; comes up for air every so many."""
        self._place_of.clear()
        for first in range(0, len(nodes), at_once):
            for node in nodes[first : first + at_once]:
                scored = self._score_of(node)
                if scored is not None:
                    self._place_of[node] = (*scored.rank, scored)
            yield
        self._order = sorted(self._place_of.values())

    def touch(self, node: str, *, fits: bool = True) -> None:
        """This node has changed in any way, went, or came. `fits`: is the demand for it?"""
        self._remove(node)
        scored = self._score_of(node) if fits else None
        if scored is not None:
            self._place_of[node] = place = (*scored.rank, scored)
            insort(self._order, place)

    def pick(self, special: Mapping[str, Score | None] | None = None) -> Pick | None:
        """The best node with the next ones; None when none is left. `special`: nodes that have another score for this
        pod than for others of the same demand, or none at all."""
        if not special:
            best = [place[-1] for place in self._order[: RUNNERS_UP + 1]]
        else:
            few = self._order[: RUNNERS_UP + 1 + len(special)]
            best = [place[-1] for place in few if place[-2] not in special]
            best += [each for each in special.values() if each is not None]
            best = sorted(best, key=_rank)[: RUNNERS_UP + 1]
        return Pick(best=best[0], runners_up=tuple(best[1:])) if best else None

    def __contains__(self, node: object) -> bool:
        return node in self._place_of

    def _remove(self, node: str) -> None:
        place = self._place_of.pop(node, None)
        if place is not None:
            # Most often it is the best one, which was just picked: then nothing is searched for.
            is_best = self._order[0] is place
            del self._order[0 if is_best else bisect_left(self._order, place)]


def _rank(scored: Score) -> Rank:
    return scored.rank
