"""The rollout policy: every candidate is tried, finished by simple rules, and the best way is begun. Pure.

A greedy rule cannot see that a light layer now leaves no compute to hide a heavy one behind later: where networks
change their character on the way it is up to a third above the best order. Rollout (Bertsekas and Castanon, "Rollout
algorithms for stochastic scheduling problems", 1999) asks of each candidate how a simple rule would go on from there.
Here four rules finish (balanced, literal, most compute ahead, in proportion), two decisions ahead while that is cheap,
and the best way found so far competes at the next decision: what is planned gets no worse by looking again. The way of
balanced itself is left only for one that gains enough, and with many candidates, for which the horizon is a few layers
each, balanced decides: what is seen of them then says less than its rule (in a closed loop of four networks plain
rollout lost up to a tenth).

A way is as good as the least time in which both engines can end from where it leads: max(Ce + compute still to come,
Me + fetch still to come). Beyond the horizon, and of requests that have not arrived, nothing is assumed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from math import inf
from typing import Final

from batchwright_worker.layerwise.core.policy import Balanced, decided, fetch_share, guarded
from batchwright_worker.layerwise.core.timeline import AcceleratorState
from batchwright_worker.layerwise.core.values import Candidate, Decision, Layer, Prefetch

__all__ = ["HORIZON_LAYERS", "MOST_CANDIDATES", "Head", "Rollout", "Way"]

HORIZON_LAYERS: Final = 12
"""Layers of all candidates together that a way goes on for. With four rules and two candidates a decision takes some
200 microseconds."""
MOST_CANDIDATES: Final = 3
"""Of more than these balanced chooses."""
_LEAST_GAIN: Final = 0.01
"""Of the time to the end of the horizon: what another way than balanced's must gain."""
_AHEAD: Final = 4
"""Ways that begin differently and are finished: two candidates two decisions ahead, more candidates one."""


class Rollout:
    """With the guard of the other rules (C4). Remembers the best way found, by the models of its layers."""

    name = "rollout"

    def __init__(self, skip_limit: int, fill_time: Fraction | float) -> None:
        self.skip_limit = skip_limit
        self._balanced = Balanced(skip_limit, fill_time)
        self._enough = self._balanced.enough
        self._planned: deque[str] = deque()

    def choose(self, accelerator: AcceleratorState, candidates: Sequence[Candidate]) -> Decision:
        """The overdue candidate, else the first layer of the best way found."""
        if len(candidates) > MOST_CANDIDATES:
            self._planned.clear()
            return self._balanced.choose(accelerator, candidates)
        decision = guarded(accelerator, candidates, self.skip_limit)
        if decision is None:
            chosen = self._best(accelerator, candidates) if len(candidates) > 1 else candidates[0]
            decision = decided(chosen, accelerator.probe(chosen.layer, chosen.request.arrival))
        if self._planned and self._planned[0] == decision.request.model:
            self._planned.popleft()
        else:
            self._planned.clear()
        return decision

    def _best(self, accelerator: AcceleratorState, candidates: Sequence[Candidate]) -> Candidate:
        each = -(-HORIZON_LAYERS // len(candidates))
        # In the order of requests: among equals the first stands, as with the other rules.
        ordered = sorted(candidates, key=lambda candidate: (candidate.request.arrival, candidate.request.order))
        heads = [Head(candidate, each) for candidate in ordered]
        start = Way(accelerator, heads)
        names = [candidate.request.model for candidate in ordered]
        balanced_value, balanced_models = start.finished(_balanced, self._enough)
        best_value, best_models = start.follow([names.index(name) for name in self._planned if name in names])
        for way in _beginnings(start, 2 if len(heads) ** 2 <= _AHEAD else 1):
            for rule in _RULES:
                value, models = way.finished(rule, self._enough)
                if value < best_value or not best_models:
                    best_value, best_models = value, models
        if best_value > balanced_value - _LEAST_GAIN * (balanced_value - start.memory_free):
            best_models = balanced_models
        self._planned = deque(names[number] for number in best_models)
        return ordered[best_models[0]]


def _beginnings(way: Way, decisions: int) -> Iterator[Way]:
    open_heads = [number for number, head in enumerate(way.heads) if way.positions[number] < len(head.layers)]
    if not decisions or not open_heads:
        yield way
        return
    for number in open_heads:
        further = way.copy()
        further.put(number)
        yield from _beginnings(further, decisions - 1)


class Head:
    """A candidate's next layers, and what its others take together."""

    __slots__ = ("arrival", "compute", "fetch", "layers", "shares")

    def __init__(self, candidate: Candidate, most: int) -> None:
        left = candidate.request.layers[candidate.position :]
        self.layers: Sequence[Layer] = left[:most]
        self.shares = [fetch_share(layer) for layer in self.layers]
        self.arrival = candidate.request.arrival
        self.compute = sum(layer.compute for layer in left)
        self.fetch = sum(layer.fetch for layer in left)


class Way:
    """Layers put one after the other behind what is in flight: both engines and the memory, by the recurrence. It is
    `timeline` without what was measured, and without objects for layers: some hundred of these steps are a decision."""

    __slots__ = (
        "budget",
        "compute_free",
        "compute_left",
        "fetch_left",
        "fluid",
        "heads",
        "held",
        "memory_free",
        "models",
        "piece",
        "positions",
        "used",
    )

    def __init__(self, accelerator: AcceleratorState | None, heads: Sequence[Head]) -> None:
        self.heads = heads
        if accelerator is None:
            return
        self.held: deque[tuple[int, int]] = deque((end, layer.bytes) for _, layer, end in accelerator.in_flight())
        self.used = sum(size for _, size in self.held)
        self.budget = accelerator.budget_bytes
        self.fluid = accelerator.prefetch is Prefetch.FLUID
        self.piece = accelerator.piece_bytes
        self.memory_free = accelerator.memory_free
        self.compute_free = accelerator.compute_free
        self.positions = [0] * len(heads)
        self.models: list[int] = []
        self.compute_left = sum(head.compute for head in heads)
        self.fetch_left = sum(head.fetch for head in heads)

    def copy(self) -> Way:
        other = Way(None, self.heads)
        other.held, other.used, other.budget, other.fluid = deque(self.held), self.used, self.budget, self.fluid
        other.piece = self.piece
        other.memory_free, other.compute_free = self.memory_free, self.compute_free
        other.positions, other.models = list(self.positions), list(self.models)
        other.compute_left, other.fetch_left = self.compute_left, self.fetch_left
        return other

    def fetched(self, number: int) -> int:
        """When the next layer of this head would be there."""
        head = self.heads[number]
        layer = head.layers[self.positions[number]]
        earliest = max(self.memory_free, head.arrival)
        room = self.budget - self.used
        pause = 0
        if layer.bytes > room:
            for end, size in self.held:
                if self.fluid:
                    moved = int(room) // self.piece * self.piece
                    pause = max(pause, end - earliest - moved * layer.fetch // layer.bytes)
                room += size
                if layer.bytes <= room:
                    pause = pause if self.fluid else max(0, end - earliest)
                    break
        return earliest + pause + layer.fetch

    def put(self, number: int) -> None:
        """The next layer of this head goes next."""
        layer = self.heads[number].layers[self.positions[number]]
        self.memory_free = fetched = self.fetched(number)
        self.compute_free = max(self.compute_free, fetched) + layer.compute
        held = self.held
        held.append((self.compute_free, layer.bytes))
        self.used += layer.bytes
        while held and held[0][0] <= fetched:
            self.used -= held.popleft()[1]
        self.positions[number] += 1
        self.models.append(number)
        self.compute_left -= layer.compute
        self.fetch_left -= layer.fetch

    @property
    def value(self) -> int:
        """The least time in which both engines can have done everything."""
        return max(self.compute_free + self.compute_left, self.memory_free + self.fetch_left)

    def finished(self, rule: Rule, enough: float) -> tuple[int, list[int]]:
        """Its value when a rule has put all other layers of the horizon, and the heads in order."""
        way = self.copy()
        heads = [number for number, head in enumerate(way.heads) if way.positions[number] < len(head.layers)]
        while heads:
            number = rule(way, heads, enough) if len(heads) > 1 else heads[0]
            way.put(number)
            if way.positions[number] == len(way.heads[number].layers):
                heads.remove(number)
        return way.value, way.models

    def follow(self, models: Sequence[int]) -> tuple[float, list[int]]:
        """Its value when these heads go next; what does not go any more is left out, and what follows is in turn."""
        way = self.copy()
        for number in models:
            if way.positions[number] < len(way.heads[number].layers):
                way.put(number)
        return way.finished(_in_proportion, inf) if way.models else (inf, [])


Rule = Callable[[Way, Sequence[int], float], int]
"""Chooses among at least two heads; `enough`: theta * B/BW (`policy.Balanced`)."""


def _balanced(way: Way, heads: Sequence[int], enough: float) -> int:
    compute_free = way.compute_free

    def key(number: int) -> tuple[int, float]:
        head = way.heads[number]
        share = head.shares[way.positions[number]]
        slack = compute_free - max(way.memory_free, head.arrival)
        return max(0, way.fetched(number) - compute_free), -share if slack > enough else share

    return min(heads, key=key)


def _literal(way: Way, heads: Sequence[int], _enough: float) -> int:
    def key(number: int) -> tuple[int, int]:
        fetched = way.fetched(number)
        return max(0, fetched - way.compute_free), fetched - way.heads[number].layers[way.positions[number]].fetch

    return min(heads, key=key)


def _most_compute_ahead(way: Way, heads: Sequence[int], _enough: float) -> int:
    """The one whose rest gives most compute for its fetches."""

    def key(number: int) -> int:
        left = way.heads[number].layers[way.positions[number] :]
        return sum(layer.fetch - layer.compute for layer in left)

    return min(heads, key=key)


def _in_proportion(way: Way, heads: Sequence[int], _enough: float) -> int:
    """The one of which the smallest part is done."""
    return min(heads, key=lambda number: way.positions[number] / len(way.heads[number].layers))


_RULES: Final[tuple[Rule, ...]] = (_balanced, _literal, _most_compute_ahead, _in_proportion)
