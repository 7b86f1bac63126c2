"""The state of both engines and of the memory between them (methods C, "Timing"). Pure.

k-th layer with compute time c, fetch time w, bytes s, arrival a, budget B; both engines work in order, and a layer's
bytes are held from the start of its fetch to the end of its compute:

    Ms = max(Me_prev, a, R)   Me = Ms + w     Cs = max(Ce_prev, Me)   Ce = Cs + c
    IM = max(0, R - max(Me_prev, a))          IC = max(0, Me - Ce_prev)

R is when enough earlier layers have retired for s to fit. Fluid prefetch: the fetch runs at s/w while there is room.
What it may hold is a rising staircase (B minus what earlier layers still hold), so its end has a closed form: at every
retirement t before which only `room` bytes fitted, s - room bytes are still to come: Me >= t + (s - room) * w/s, so
that IM is the largest t - max(Me_prev, a) - room * w/s (and 0 at least).

A plan needs `probe` and `push` alone. An executor builds the timeline with `live=True`, tells it the time (`advance`)
and what it measured (`correct`); what was pushed after the corrected layer is planned anew from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from batchwright_worker.layerwise.core.values import Idle, Layer, LayerPlacement, Prefetch, UnknownPlacement

__all__ = ["AcceleratorState", "Timeline"]


class AcceleratorState(Protocol):
    """What a policy sees of the accelerator."""

    @property
    def memory_free(self) -> float:
        """When the memory engine has done all fetches pushed so far (Me of the last one)."""

    @property
    def compute_free(self) -> float:
        """When the compute engine has done all layers pushed so far (Ce of the last one)."""

    @property
    def budget_bytes(self) -> float:
        """B; infinity where nothing bounds it."""

    def probe(self, layer: Layer, arrival: float) -> Idle:
        """Idle times if this layer were pushed next. Changes nothing."""


@dataclass(slots=True)
class _LayerInFlight:
    """A layer in flight: its times as planned or, where `measured_*` is set, as they were."""

    sequence: int
    layer: Layer
    arrival: float
    fetch_start: float = 0
    fetch_end: float = 0
    compute_start: float = 0
    compute_end: float = 0
    measured_fetch_start: float | None = None
    measured_fetch_end: float | None = None
    measured_compute_start: float | None = None
    measured_compute_end: float | None = None


class Timeline:
    """Both engines from `origin` on. The caller sees to it that no layer is larger than the budget."""

    __slots__ = (
        "_base",
        "_floor",
        "_held",
        "_next",
        "_used",
        "budget_bytes",
        "compute_free",
        "live",
        "memory_free",
        "prefetch",
    )

    def __init__(
        self, budget_bytes: float, *, prefetch: Prefetch = Prefetch.WHOLE, origin: float = 0, live: bool = False
    ) -> None:
        self.budget_bytes = budget_bytes
        self.prefetch = prefetch
        self.live = live
        self.memory_free = origin
        self.compute_free = origin
        self._base = (origin, origin)
        self._floor = origin
        self._held: deque[_LayerInFlight] = deque()
        self._used = 0
        self._next = 0

    def probe(self, layer: Layer, arrival: float) -> Idle:
        """(IC, IM) if this layer were pushed next (C2). Changes nothing."""
        earliest = max(self.memory_free, arrival, self._floor)
        pause = self._pause(layer, earliest)
        fetched = earliest + pause + layer.fetch
        compute_free = self.compute_free
        return Idle(fetched - compute_free if fetched > compute_free else 0, pause)

    def push(self, layer: Layer, arrival: float) -> LayerPlacement:
        """Put the layer next on both engines."""
        held = _LayerInFlight(self._next, layer, max(arrival, self._floor))
        self._next += 1
        computed = self.compute_free
        pause = self._place(held)
        self._retire()
        idle = Idle(max(0, held.fetch_end - computed), pause)
        return LayerPlacement(
            held.sequence, held.fetch_start, held.fetch_end, held.compute_start, held.compute_end, idle
        )

    def advance(self, now: float) -> None:
        """It is `now`: no fetch starts before, and what is not measured as ended has not ended before."""
        if now > self._floor:
            self._floor = now
            if any(held.fetch_end < now and held.measured_fetch_end is None for held in self._held) or any(
                held.compute_end < now and held.measured_compute_end is None for held in self._held
            ):
                self._replay()

    def correct(
        self,
        sequence: int,
        *,
        fetch_start: float | None = None,
        fetch_end: float | None = None,
        compute_start: float | None = None,
        compute_end: float | None = None,
    ) -> None:
        """Set what was measured of the layer that `push` numbered `sequence`; all that follows is planned anew.

        Raises UnknownPlacement for a layer that is not in flight. Measured times may come in any order of layers.
        """
        held = next((held for held in self._held if held.sequence == sequence), None)
        if held is None:
            raise UnknownPlacement(f"layer number {sequence} is not in flight")
        held.measured_fetch_start = held.measured_fetch_start if fetch_start is None else fetch_start
        held.measured_fetch_end = held.measured_fetch_end if fetch_end is None else fetch_end
        held.measured_compute_start = held.measured_compute_start if compute_start is None else compute_start
        held.measured_compute_end = held.measured_compute_end if compute_end is None else compute_end
        self._replay()
        self._retire()

    def drop(self, sequence: int) -> None:
        """The layer will not run after all (its request was given up before its fetch): plan on without it.

        Raises UnknownPlacement for a layer that is not in flight.
        """
        if all(held.sequence != sequence for held in self._held):
            raise UnknownPlacement(f"layer number {sequence} is not in flight")
        self._held = deque(held for held in self._held if held.sequence != sequence)
        self._replay()

    def in_flight(self) -> Iterable[tuple[int, Layer, float]]:
        """(sequence, layer, end of its compute as known now) of all that may still hold memory, oldest first."""
        return [(held.sequence, held.layer, held.compute_end) for held in self._held]

    def _pause(self, layer: Layer, earliest: float) -> float:
        """IM: how long the memory engine waits for room, if it could start the fetch at `earliest`."""
        room = self.budget_bytes - self._used
        if layer.bytes <= room or not layer.bytes:
            return 0
        if self.prefetch is Prefetch.FLUID:
            return self._fluid_pause(layer, earliest, room)
        for held in self._held:
            room += held.layer.bytes
            if layer.bytes <= room:
                return max(0, held.compute_end - earliest)
        raise AssertionError(f"a layer of {layer.bytes} bytes was pushed into a budget of {self.budget_bytes}")

    def _fluid_pause(self, layer: Layer, earliest: float, room: float) -> float:
        """The sum of all pauses of a fluid fetch (see the module's formula)."""
        pause: float = 0
        for held in self._held:
            if layer.bytes <= room:
                break
            pause = max(pause, held.compute_end - earliest - room * layer.fetch / layer.bytes)
            room += held.layer.bytes
        return pause

    def _first_room(self, earliest: float, pause: float) -> float:
        """When the first byte can move: with whole layers all wait together, a fluid fetch starts with any room."""
        if not pause or self.prefetch is Prefetch.WHOLE:
            return earliest + pause
        room = self.budget_bytes - self._used
        for held in self._held:
            if room > 0:
                break
            room += held.layer.bytes
            earliest = max(earliest, held.compute_end)
        return earliest

    def _place(self, held: _LayerInFlight) -> float:
        """The recurrence for the layer behind all others, measured times first; returns IM as planned."""
        layer = held.layer
        pause: float = 0
        if held.measured_fetch_end is None:
            pause = self._fetch(held)
        else:
            held.fetch_start = held.fetch_start if held.measured_fetch_start is None else held.measured_fetch_start
            held.fetch_end = held.measured_fetch_end
        compute_start = max(self.compute_free, held.fetch_end)
        held.compute_start = compute_start if held.measured_compute_start is None else held.measured_compute_start
        held.compute_end = self._known(held.measured_compute_end, held.compute_start + layer.compute)
        self.memory_free, self.compute_free = held.fetch_end, held.compute_end
        self._held.append(held)
        self._used += layer.bytes
        return pause

    def _fetch(self, held: _LayerInFlight) -> float:
        """Plan a fetch that has not been measured to its end; returns IM."""
        earliest = max(self.memory_free, held.arrival)
        pause = self._pause(held.layer, earliest)
        if held.measured_fetch_start is None:
            held.fetch_start = self._first_room(earliest, pause)
            fetch_end = earliest + pause + held.layer.fetch
        else:
            held.fetch_start = held.measured_fetch_start
            fetch_end = held.fetch_start + held.layer.fetch
        held.fetch_end = self._known(None, fetch_end)
        return pause

    def _known(self, measured: float | None, planned: float) -> float:
        """The measured time; else the planned one, which cannot lie in the past of an executor."""
        if measured is not None:
            return measured
        return max(planned, self._floor) if self.live else planned

    def _replay(self) -> None:
        """Plan all that is in flight anew."""
        held, self._held, self._used = self._held, deque(), 0
        self.memory_free, self.compute_free = self._base
        for entry in held:
            self._place(entry)

    def _retire(self) -> None:
        """Forget layers that can no longer hold back a fetch.

        In a plan those whose compute ends before the memory engine is free. Live, plans may still move: only those that
        are measured, and that retired before the last measured fetch ended (later ones cannot start before that).
        """
        held = self._held
        until = self.memory_free if not self.live else self._measured_until()
        while held and held[0].compute_end <= until and (not self.live or held[0].measured_compute_end is not None):
            first = held.popleft()
            self._used -= first.layer.bytes
            self._base = (first.fetch_end, first.compute_end)

    def _measured_until(self) -> float:
        """The end of the last fetch in a row that was measured."""
        until = self._base[0]
        for held in self._held:
            if held.measured_fetch_end is None:
                break
            until = held.measured_fetch_end
        return until
