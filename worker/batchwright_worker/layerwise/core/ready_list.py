"""The ready list (C1): per model the next layer of its oldest request, its skips (C4), the requests behind it. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from batchwright_worker.layerwise.core.values import BudgetTooSmall, Candidate, Decision, ModelRequest

__all__ = ["ReadyList"]


class ReadyList:
    """One candidate per model: the next layer of its oldest request. Requests of one model run one after the other."""

    def __init__(self, budget_bytes: float) -> None:
        self._budget_bytes = budget_bytes
        self._heads: dict[str, Candidate] = {}
        self._behind: dict[str, list[tuple[int, int, ModelRequest]]] = {}

    def __len__(self) -> int:
        """Requests with layers not yet picked."""
        return len(self._heads) + sum(map(len, self._behind.values()))

    def add(self, request: ModelRequest) -> None:
        """Queue a request behind its model's others. Raises BudgetTooSmall if one of its layers can never fit,
        ValueError if it has no layers."""
        if not request.layers:
            raise ValueError(f"a request of model {request.model} has no layers")
        for position, layer in enumerate(request.layers):
            if layer.bytes > self._budget_bytes:
                raise BudgetTooSmall(
                    model=request.model, position=position, layer=layer, budget_bytes=self._budget_bytes
                )
        heapq.heappush(self._behind.setdefault(request.model, []), (request.arrival, request.order, request))
        self._advance(request.model)

    def withdraw(self, model: str, order: int) -> bool:
        """Remove a request of which no layer was picked yet; False if one was, or if it is not here."""
        head = self._heads.get(model)
        if head is not None and head.request.order == order and not head.position:
            del self._heads[model]
            self._advance(model)
            return True
        behind = self._behind.get(model, [])
        kept = [entry for entry in behind if entry[1] != order]
        if len(kept) == len(behind):
            return False
        heapq.heapify(kept)
        self._behind[model] = kept
        return True

    def next_arrival(self) -> int | None:
        """The earliest arrival of a candidate; None without any."""
        return min((head.request.arrival for head in self._heads.values()), default=None)

    def candidates(self, now: int) -> Sequence[Candidate]:
        """The next layers of all models whose oldest request has arrived."""
        return [head for head in self._heads.values() if head.request.arrival <= now]

    def pick(self, decision: Decision, candidates: Sequence[Candidate]) -> None:
        """The decision was taken among these: its model goes on, all others were passed over once more."""
        for candidate in candidates:
            if candidate.request is not decision.request:
                candidate.skips += 1
        model = decision.request.model
        head = self._heads[model]
        head.skips = 0
        head.position += 1
        if decision.last:
            del self._heads[model]
            self._advance(model)

    def _advance(self, model: str) -> None:
        """Let the model's oldest waiting request be its candidate, unless one has begun."""
        behind = self._behind.get(model)
        head = self._heads.get(model)
        if not behind or (head is not None and head.position):
            return
        if head is None:
            self._heads[model] = Candidate(request=heapq.heappop(behind)[2])
        # A request may be added after a later one: it becomes the candidate as long as no layer of the other was
        # picked. The skips stay, for it is the same layer of the same model that was passed over.
        elif behind[0] < (head.request.arrival, head.request.order, head.request):
            waiting = head.request
            head.request = heapq.heapreplace(behind, (waiting.arrival, waiting.order, waiting))[2]
