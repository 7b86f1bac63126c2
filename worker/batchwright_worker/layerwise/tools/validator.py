"""The validator: is a schedule possible at all, and are its idle times what it says? Pure.

It shares no code with the timeline and looks at nothing but times: every layer as (request, position, compute, fetch,
bytes, arrival, when it is fetched and computed).
Memory is checked by a sweep over all events, idle times by listing the gaps of both engines, and with fluid prefetch
every fetch is run again from event to event.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["TimedLayer", "violations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedLayer:
    """A layer as scheduled on both engines; a schedule lists them in the order of their fetches."""

    request: int
    position: int
    compute: float
    fetch: float
    bytes: int
    arrival: float
    fetch_start: float
    fetch_end: float
    compute_start: float
    compute_end: float
    compute_idle: float
    memory_idle: float


def violations(
    layers: Sequence[TimedLayer],
    *,
    budget_bytes: float,
    lengths: Sequence[int],
    fluid: bool = False,
    tolerance: float = 0,
) -> list[str]:
    """Messages about what is wrong with a schedule; empty for a valid one.

    `lengths` has the number of layers of every request; times may differ by `tolerance`.
    """
    check = _Check(layers, budget_bytes, tolerance)
    found = [*check.complete(lengths), *check.durations(fluid), *check.engines(), *check.idle_times()]
    return [*found, *(check.fluid_memory() if fluid else check.whole_memory())]


class _Check:
    def __init__(self, layers: Sequence[TimedLayer], budget_bytes: float, tolerance: float) -> None:
        self.layers = layers
        self.budget = budget_bytes
        self.tolerance = tolerance

    def late(self, earlier: float, later: float) -> bool:
        """Is `earlier` after `later`?"""
        return earlier > later + self.tolerance

    def differ(self, one: float, other: float) -> bool:
        """Are the two times not the same?"""
        return abs(one - other) > self.tolerance

    def complete(self, lengths: Sequence[int]) -> Iterator[str]:
        """Every layer of every request once, and a request's layers in order."""
        positions: dict[int, list[int]] = defaultdict(list)
        for layer in self.layers:
            positions[layer.request].append(layer.position)
        for request, length in enumerate(lengths):
            if positions.pop(request, []) != list(range(length)):
                yield f"request {request}: its {length} layers do not come once each and in order"
        yield from (f"request {request} was never made" for request in positions)

    def durations(self, fluid: bool) -> Iterator[str]:
        """Fetches after arrivals, computes after fetches, both as long as they are."""
        for layer in self.layers:
            name = f"layer {layer.position} of request {layer.request}"
            if self.late(layer.arrival, layer.fetch_start):
                yield f"{name} is fetched before its request arrives"
            if self.late(layer.fetch_end, layer.compute_start):
                yield f"{name} is computed before it is fetched"
            if self.differ(layer.compute_start + layer.compute, layer.compute_end):
                yield f"{name} computes for another time than its own"
            took = layer.fetch_end - layer.fetch_start
            if self.late(layer.fetch, took) or (not fluid and self.differ(layer.fetch, took)):
                yield f"{name} fetches for another time than its own"

    def engines(self) -> Iterator[str]:
        """Neither engine does two layers at a time."""
        for before, after in pairwise(self.layers):
            if self.late(before.fetch_end, after.fetch_start):
                yield f"the fetch at {after.fetch_start} overlaps the one before it"
        by_compute = sorted(self.layers, key=lambda layer: (layer.compute_start, layer.compute_end))
        for before, after in pairwise(by_compute):
            if self.late(before.compute_end, after.compute_start):
                yield f"the compute at {after.compute_start} overlaps the one before it"

    def idle_times(self) -> Iterator[str]:
        """Idle times are the gaps: all of the compute engine's, and the memory engine's beyond waiting for requests."""
        computed, fetched = 0.0, 0.0
        for layer in self.layers:
            gap = layer.compute_start - computed
            if self.differ(gap, layer.compute_idle):
                yield f"compute waits {gap} before {layer.compute_start}, reported {layer.compute_idle}"
            blocked = layer.fetch_end - layer.fetch - max(fetched, layer.arrival)
            if self.differ(blocked, layer.memory_idle):
                yield f"memory waits {blocked} before {layer.fetch_end}, reported {layer.memory_idle}"
            computed, fetched = layer.compute_end, layer.fetch_end

    def whole_memory(self) -> Iterator[str]:
        """A sweep: bytes come when a fetch starts and go when its compute ends; and nothing waits while it has room."""
        comes = [(layer.fetch_start + self.tolerance, 1, layer.bytes) for layer in self.layers]
        goes = [(layer.compute_end, 0, -layer.bytes) for layer in self.layers]
        occupied = 0
        for time, _, change in sorted(comes + goes):
            occupied += change
            if occupied > self.budget:
                yield f"{occupied} bytes are held at {time}, the budget is {self.budget}"
        yield from self._needless_waits()

    def _needless_waits(self) -> Iterator[str]:
        """A fetch that waits for room starts at a retirement before which it did not fit."""
        for number, layer in enumerate(self.layers):
            if layer.memory_idle <= self.tolerance:
                continue
            before = self.layers[:number]
            until = layer.fetch_start - self.tolerance
            occupied = sum(earlier.bytes for earlier in before if earlier.compute_end >= until)
            if occupied + layer.bytes <= self.budget:
                yield f"the fetch at {layer.fetch_start} waits, though it had room before"

    def fluid_memory(self) -> Iterator[str]:
        """Run every fetch again from retirement to retirement: its first byte and its end must come out the same."""
        for number, layer in enumerate(self.layers):
            before = self.layers[:number]
            start = max([layer.arrival, *(earlier.fetch_end for earlier in before[-1:])])
            first, end = self._refetched(layer, before, start)
            if self.differ(end, layer.fetch_end):
                yield f"a fluid fetch would end at {end}, reported {layer.fetch_end}"
            if self.differ(first, layer.fetch_start):
                yield f"a fluid fetch would begin at {first}, reported {layer.fetch_start}"

    def _refetched(self, layer: TimedLayer, before: Sequence[TimedLayer], start: float) -> tuple[float, float]:
        """(first byte, end) of a fetch that runs whenever there is room from `start` on."""
        if not layer.bytes:
            return start, start + layer.fetch
        pace = layer.fetch / layer.bytes
        now, missing = start, float(layer.bytes)
        first: float | None = None
        occupied = sum(earlier.bytes for earlier in before if earlier.compute_end > now)
        for retirement in sorted({earlier.compute_end for earlier in before if earlier.compute_end > now}):
            room = self.budget - occupied - (layer.bytes - missing)
            moved = min(missing, room, (retirement - now) / pace if pace else missing)
            first = now if first is None and moved > 0 else first
            missing -= moved
            if missing <= 1e-9 * layer.bytes:
                return first or start, now + moved * pace
            occupied -= sum(earlier.bytes for earlier in before if earlier.compute_end == retirement)
            now = retirement
        return now if first is None else first, now + missing * pace
