"""The order of the nodes that fit one demand, best first, kept while single nodes change. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from batchwright_operator.placement.scoring import Candidate, Rank, Score, ScoreContext, score

RUNNERS_UP: Final = 3
_KEPT: Final = 64
"""Scores that are kept besides the ranks: those of the best few are asked for again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """The best candidate and those that came next, best first."""

    best: Score
    runners_up: tuple[Score, ...]


class Ranking:
    """The nodes that fit, in order. `candidate_of` gives a node's candidate as of now, or None when the pod does not
    fit there; whatever changes one is to be announced by `touch`.

    A sorted list rather than a heap: the next best few are a slice, a node is found by its rank, and to move 4,000
    pointers costs less than the comparisons that find the place. A pick costs a few scores, a touch O(log n) and one.
    """

    def __init__(self, candidate_of: Callable[[str], Candidate | None], context: ScoreContext) -> None:
        self._candidate_of = candidate_of
        self._context = context
        self._ranks: list[Rank] = []
        self._rank_of: dict[str, Rank] = {}
        self._scores: dict[str, Score] = {}

    @classmethod
    def over(
        cls, candidate_of: Callable[[str], Candidate | None], nodes: Iterable[str], context: ScoreContext
    ) -> Ranking:
        """The ranking of these nodes."""
        ranking = cls(candidate_of, context)
        ranking.fill(each for node in nodes if (each := candidate_of(node)) is not None)
        return ranking

    def fill(self, candidates: Iterable[Candidate]) -> None:
        """Puts all of these in at once, in place of what is there."""
        self._rank_of = {each.node.name: score(each, self._context).rank for each in candidates}
        self._ranks = sorted(self._rank_of.values())
        self._scores.clear()

    def touch(self, node: str) -> None:
        """This node's candidate has changed in any way, went, or came."""
        self._remove(node)
        candidate = self._candidate_of(node)
        if candidate is None:
            return
        scored = score(candidate, self._context)
        self._rank_of[node] = rank = scored.rank
        insort(self._ranks, rank)
        if len(self._scores) >= _KEPT:
            self._scores.clear()
        self._scores[node] = scored

    def pick(self, special: Mapping[str, Score | None] | None = None) -> Pick | None:
        """The best candidate with the next ones; None when none is left. `special`: nodes that have another score for
        this pod than for others of the same demand, or none at all."""
        if not special:
            best = [self._score(rank[-1]) for rank in self._ranks[: RUNNERS_UP + 1]]
        else:
            few = self._ranks[: RUNNERS_UP + 1 + len(special)]
            best = [self._score(rank[-1]) for rank in few if rank[-1] not in special]
            best += [each for each in special.values() if each is not None]
            best = sorted(best, key=_rank)[: RUNNERS_UP + 1]
        return Pick(best=best[0], runners_up=tuple(best[1:])) if best else None

    def special(self, candidate: Candidate) -> Score:
        """The score of a candidate that is another one for this pod than for others."""
        return score(candidate, self._context)

    def __contains__(self, node: object) -> bool:
        return node in self._rank_of

    def _score(self, node: str) -> Score:
        found = self._scores.get(node)
        if found is None:
            candidate = self._candidate_of(node)
            assert candidate is not None, "a node that is ranked fits, or its change was not announced"
            found = self._scores[node] = score(candidate, self._context)
        return found

    def _remove(self, node: str) -> None:
        self._scores.pop(node, None)
        rank = self._rank_of.pop(node, None)
        if rank is not None:
            del self._ranks[bisect_left(self._ranks, rank)]


def _rank(scored: Score) -> Rank:
    return scored.rank
