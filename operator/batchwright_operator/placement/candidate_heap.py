"""Candidates of one revision in the order of their scores, kept so while placements change them. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

from batchwright_operator.placement.scoring import Candidate, Rank, Score, ScoreContext, score


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """The best candidate and those that came next, best first."""

    best: Score
    runners_up: tuple[Score, ...]


class CandidateHeap:
    """The candidates of one revision, kept in order while placements change them.

    `candidate_of` gives a node's candidate as of now, or None when the pod does not fit there any more. A load may
    grow unannounced; after anything that may have made one smaller, `touch` the node. A pick costs O(log n) and a
    few scores.
    """

    def __init__(
        self, nodes: Iterable[str], candidate_of: Callable[[str], Candidate | None], context: ScoreContext
    ) -> None:
        self._candidate_of = candidate_of
        self._context = context
        self._serial = count()
        self._current: dict[str, int] = {}
        """Node -> serial of its valid entry. Older entries stay in the heap, where to remove one would cost O(n), and
        are skipped when they come up."""
        self._heap: list[tuple[Rank, int, str]] = []
        for node in nodes:
            if (scored := self._scored(node)) is not None:
                self._heap.append(self._entry(scored))
        heapq.heapify(self._heap)

    def pick(self, runners_up: int = 3) -> Pick | None:
        """The best candidate as of now with up to `runners_up` next ones; None when none is left."""
        best = [each for _ in range(runners_up + 1) if (each := self._pop()) is not None]
        for each in best:
            self._insert(each)
        return Pick(best=best[0], runners_up=tuple(best[1:])) if best else None

    def touch(self, node: str) -> None:
        """This node's candidate has changed in any way, or may have come back."""
        scored = self._scored(node)
        if scored is None:
            self._current.pop(node, None)
        else:
            self._insert(scored)

    def _pop(self) -> Score | None:
        while self._heap:
            rank, serial, node = heapq.heappop(self._heap)
            if self._current.get(node) != serial:
                continue
            del self._current[node]
            scored = self._scored(node)
            if scored is None:
                continue
            # Scored when it was pushed. As loads only grow between two touches, an entry that is no worse now is the
            # smallest of all; a worse one goes back to where it belongs, and the next one is looked at.
            if scored.rank <= rank:
                return scored
            self._insert(scored)
        return None

    def _scored(self, node: str) -> Score | None:
        candidate = self._candidate_of(node)
        return None if candidate is None else score(candidate, self._context)

    def _insert(self, scored: Score) -> None:
        heapq.heappush(self._heap, self._entry(scored))

    def _entry(self, scored: Score) -> tuple[Rank, int, str]:
        node = scored.candidate.node.name
        self._current[node] = serial = next(self._serial)
        return scored.rank, serial, node
