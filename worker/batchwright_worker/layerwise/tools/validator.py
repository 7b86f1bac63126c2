"""The validator: is a schedule possible at all, and are its idle times what it says? Pure.

It shares no code with the timeline and looks at nothing but times: every layer as (request, position, compute, fetch,
bytes, arrival, when it is fetched and computed).
Times are whole steps and are compared as they are. Memory is checked by a sweep over all events, idle times by listing
the gaps of both engines, and with fluid prefetch every fetch is run again from event to event, in fractions of a step;
it is done at the first whole step after its last byte.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, isinf

__all__ = ["TimedLayer", "violations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedLayer:
    """A layer as scheduled on both engines; a schedule lists them in the order of their fetches."""

    request: int
    position: int
    compute: int
    fetch: int
    bytes: int
    arrival: int
    fetch_start: int
    fetch_end: int
    compute_start: int
    compute_end: int
    compute_idle: int
    memory_idle: int


def violations(
    layers: Sequence[TimedLayer],
    *,
    budget_bytes: float,
    lengths: Sequence[int],
    fluid: bool = False,
) -> list[str]:
    """Messages about what is wrong with a schedule; empty for a valid one.

    `lengths` has the number of layers of every request.
    """
    check = _Check(layers, budget_bytes)
    found = [*check.complete(lengths), *check.durations(fluid), *check.engines(), *check.idle_times()]
    return [*found, *(check.fluid_memory() if fluid else check.whole_memory())]


class _Check:
    def __init__(self, layers: Sequence[TimedLayer], budget_bytes: float) -> None:
        self.layers = layers
        self.budget = budget_bytes

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
            if layer.arrival > layer.fetch_start:
                yield f"{name} is fetched before its request arrives"
            if layer.fetch_end > layer.compute_start:
                yield f"{name} is computed before it is fetched"
            if layer.compute_start + layer.compute != layer.compute_end:
                yield f"{name} computes for another time than its own"
            took = layer.fetch_end - layer.fetch_start
            if layer.fetch > took or (not fluid and layer.fetch != took):
                yield f"{name} fetches for another time than its own"

    def engines(self) -> Iterator[str]:
        """Neither engine does two layers at a time."""
        for before, after in pairwise(self.layers):
            if before.fetch_end > after.fetch_start:
                yield f"the fetch at {after.fetch_start} overlaps the one before it"
        by_compute = sorted(self.layers, key=lambda layer: (layer.compute_start, layer.compute_end))
        for before, after in pairwise(by_compute):
            if before.compute_end > after.compute_start:
                yield f"the compute at {after.compute_start} overlaps the one before it"

    def idle_times(self) -> Iterator[str]:
        """Idle times are the gaps: all of the compute engine's, and the memory engine's beyond waiting for requests."""
        computed, fetched = 0, 0
        for layer in self.layers:
            gap = layer.compute_start - computed
            if gap != layer.compute_idle:
                yield f"compute waits {gap} before {layer.compute_start}, reported {layer.compute_idle}"
            blocked = layer.fetch_end - layer.fetch - max(fetched, layer.arrival)
            if blocked != layer.memory_idle:
                yield f"memory waits {blocked} before {layer.fetch_end}, reported {layer.memory_idle}"
            computed, fetched = layer.compute_end, layer.fetch_end

    def whole_memory(self) -> Iterator[str]:
        """A sweep: bytes come when a fetch starts and go when its compute ends; and nothing waits while it has room."""
        comes = [(layer.fetch_start, 1, layer.bytes) for layer in self.layers]
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
            if not layer.memory_idle:
                continue
            before = self.layers[:number]
            occupied = sum(earlier.bytes for earlier in before if earlier.compute_end >= layer.fetch_start)
            if occupied + layer.bytes <= self.budget:
                yield f"the fetch at {layer.fetch_start} waits, though it had room before"

    def fluid_memory(self) -> Iterator[str]:
        """Run every fetch again from retirement to retirement: its first byte and its end must come out the same."""
        for number, layer in enumerate(self.layers):
            before = self.layers[:number]
            start = max([layer.arrival, *(earlier.fetch_end for earlier in before[-1:])])
            first, end = self._refetched(layer, before, start)
            if end != layer.fetch_end:
                yield f"a fluid fetch would end at {end}, reported {layer.fetch_end}"
            if first != layer.fetch_start:
                yield f"a fluid fetch would begin at {first}, reported {layer.fetch_start}"

    def _refetched(self, layer: TimedLayer, before: Sequence[TimedLayer], start: int) -> tuple[int, int]:
        """(first byte, end) of a fetch that runs whenever there is room from `start` on."""
        if not layer.bytes:
            return start, start + layer.fetch
        pace = Fraction(layer.fetch, layer.bytes)
        now, missing = start, Fraction(layer.bytes)
        first: int | None = None
        occupied = sum(earlier.bytes for earlier in before if earlier.compute_end > now)
        for retirement in sorted({earlier.compute_end for earlier in before if earlier.compute_end > now}):
            moved = missing
            if not isinf(self.budget):
                moved = min(moved, int(self.budget) - occupied - (layer.bytes - missing))
            if pace:
                moved = min(moved, (retirement - now) / pace)
            first = now if first is None and moved > 0 else first
            missing -= moved
            if not missing:
                return start if first is None else first, ceil(now + moved * pace)
            occupied -= sum(earlier.bytes for earlier in before if earlier.compute_end == retirement)
            now = retirement
        return now if first is None else first, ceil(now + missing * pace)
