"""The state of both engines and of the memory between them (methods C, "Timing"). Pure.

k-th layer with compute time c, fetch time w, bytes s, arrival a, budget B; both engines work in order, and a layer's
bytes are held from the start of its fetch to the end of its compute:

    Ms = max(Me_prev, a, R)   Me = Ms + w     Cs = max(Ce_prev, Me)   Ce = Cs + c
    IM = max(0, R - max(Me_prev, a))          IC = max(0, Me - Ce_prev)

R is when enough earlier layers have retired for s to fit. Fluid prefetch: the fetch runs at s/w while there is room.
What it may hold is a rising staircase (B minus what earlier layers still hold), so its end has a closed form: at every
retirement t before which only `room` bytes fitted, s - room bytes are still to come: Me >= t + (s - room) * w/s, so
that IM is the largest t - max(Me_prev, a) - room * w/s (and 0 at least), rounded up to a whole step. A fetch that is
made of pieces moves whole ones only: `room` is then rounded down to a multiple of `piece_bytes`.

A plan needs `probe` and `push` alone. An executor builds the timeline with `live=True` and reports the time (`advance`)
and what it measured (`correct`); what was pushed after the corrected layer is planned again from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from batchwright_worker.layerwise.core.values import Idle, Layer, LayerPlacement, Prefetch, UnknownPlacement

__all__ = ["AcceleratorState", "Timeline"]


class AcceleratorState(Protocol):
    """The accelerator as a policy sees it (C2)."""

    @property
    def memory_free(self) -> int:
        """When the memory engine has done all fetches pushed so far (Me of the last one)."""

    @property
    def compute_free(self) -> int:
        """When the compute engine has done all layers pushed so far (Ce of the last one)."""

    @property
    def budget_bytes(self) -> float:
        """B; infinity where nothing bounds it."""

    @property
    def prefetch(self) -> Prefetch:
        """How weights come into the memory."""

    @property
    def piece_bytes(self) -> int:
        """What a fluid fetch moves at a time."""

    def in_flight(self) -> Iterable[tuple[int, Layer, int]]:
        """(sequence, layer, end of its compute as known now) of the layers that hold memory, oldest first."""

    def probe(self, layer: Layer, arrival: int) -> Idle:
        """Idle times if this layer were pushed next. Changes nothing."""


@dataclass(slots=True)
class _LayerInFlight:
    """A layer in flight: its times as planned or, where `measured_*` is set, as they were."""

    sequence: int
    layer: Layer
    arrival: int
    fetch_start: int = 0
    fetch_end: int = 0
    compute_start: int = 0
    compute_end: int = 0
    measured_fetch_start: int | None = None
    measured_fetch_end: int | None = None
    measured_compute_start: int | None = None
    measured_compute_end: int | None = None


class Timeline:
    """Both engines from `origin` on. The caller sees to it that no layer is larger than the budget."""

    __slots__ = (
        "_base",
        "_entries",
        "_floor",
        "_next",
        "_used",
        "budget_bytes",
        "compute_free",
        "live",
        "memory_free",
        "piece_bytes",
        "prefetch",
    )

    def __init__(
        self,
        budget_bytes: float,
        *,
        prefetch: Prefetch = Prefetch.WHOLE,
        piece_bytes: int = 1,
        origin: int = 0,
        live: bool = False,
    ) -> None:
        self.budget_bytes = budget_bytes
        self.prefetch = prefetch
        self.piece_bytes = piece_bytes
        self.live = live
        self.memory_free = origin
        self.compute_free = origin
        self._base = (origin, origin)
        """(Me, Ce) of the last layer that has retired: the recurrence starts from it."""
        self._floor = origin
        """The executor's time: nothing that is not measured yet can have started or ended before."""
        self._entries: deque[_LayerInFlight] = deque()
        self._used = 0
        self._next = 0

    def probe(self, layer: Layer, arrival: int) -> Idle:
        """(IC, IM) if this layer were pushed next (C2). Changes nothing."""
        earliest = max(self.memory_free, arrival, self._floor)
        pause = self._pause(layer, earliest)
        fetched = earliest + pause + layer.fetch
        compute_free = self.compute_free
        return Idle(fetched - compute_free if fetched > compute_free else 0, pause)

    def push(self, layer: Layer, arrival: int) -> LayerPlacement:
        """Put the layer next on both engines."""
        entry = _LayerInFlight(self._next, layer, max(arrival, self._floor))
        self._next += 1
        computed = self.compute_free
        pause = self._place(entry)
        self._retire()
        idle = Idle(max(0, entry.fetch_end - computed), pause)
        return LayerPlacement(
            entry.sequence, entry.fetch_start, entry.fetch_end, entry.compute_start, entry.compute_end, idle
        )

    def advance(self, now: int) -> None:
        """It is `now`: no fetch starts before, and what is not measured as ended has not ended before."""
        if now > self._floor:
            self._floor = now
            # Planned again only where the plan says "ended" of something that has not been measured as ended.
            if any(entry.fetch_end < now and entry.measured_fetch_end is None for entry in self._entries) or any(
                entry.compute_end < now and entry.measured_compute_end is None for entry in self._entries
            ):
                self._replan()

    def correct(
        self,
        sequence: int,
        *,
        fetch_start: int | None = None,
        fetch_end: int | None = None,
        compute_start: int | None = None,
        compute_end: int | None = None,
    ) -> None:
        """Set what was measured of the layer that `push` numbered `sequence`; everything that follows is planned again.

        Raises UnknownPlacement for a layer that is not in flight. Measured times may come in any order of layers.
        """
        entry = next((entry for entry in self._entries if entry.sequence == sequence), None)
        if entry is None:
            raise UnknownPlacement(f"layer number {sequence} is not in flight")
        entry.measured_fetch_start = entry.measured_fetch_start if fetch_start is None else fetch_start
        entry.measured_fetch_end = entry.measured_fetch_end if fetch_end is None else fetch_end
        entry.measured_compute_start = entry.measured_compute_start if compute_start is None else compute_start
        entry.measured_compute_end = entry.measured_compute_end if compute_end is None else compute_end
        # From the first layer in flight, not from this one: measured times come in any order, and the memory that is
        # free before a layer depends on all layers before it. They are few: those that still occupy memory.
        self._replan()
        # Only after that: what may retire depends on the times as they are now.
        self._retire()

    def drop(self, sequence: int) -> None:
        """The layer will not run after all (its batch failed before its fetch): plan again without it.

        Raises UnknownPlacement for a layer that is not in flight.
        """
        if all(entry.sequence != sequence for entry in self._entries):
            raise UnknownPlacement(f"layer number {sequence} is not in flight")
        self._entries = deque(entry for entry in self._entries if entry.sequence != sequence)
        self._replan()

    def in_flight(self) -> Iterable[tuple[int, Layer, int]]:
        """(sequence, layer, end of its compute as known now) of the layers that may still hold memory, oldest first."""
        return [(entry.sequence, entry.layer, entry.compute_end) for entry in self._entries]

    def _pause(self, layer: Layer, earliest: int) -> int:
        """IM: how long the memory engine waits for room, if it could start the fetch at `earliest`."""
        room = self.budget_bytes - self._used
        if layer.bytes <= room or not layer.bytes:
            return 0
        if self.prefetch is Prefetch.FLUID:
            return self._fluid_pause(layer, earliest, int(room))
        # R of the recurrence: layers retire in the order of their pushes, so the first whose bytes make enough room.
        for entry in self._entries:
            room += entry.layer.bytes
            if layer.bytes <= room:
                return max(0, entry.compute_end - earliest)
        raise AssertionError(f"a layer of {layer.bytes} bytes was pushed into a budget of {self.budget_bytes}")

    def _fluid_pause(self, layer: Layer, earliest: int, room: int) -> int:
        """The sum of all pauses of a fluid fetch (see the module's formula)."""
        pause = 0
        for entry in self._entries:
            if layer.bytes <= room:
                break
            # What is subtracted is rounded down, so the pause is rounded up: a fetch never ends before its last byte.
            moved = room - room % self.piece_bytes
            pause = max(pause, entry.compute_end - earliest - moved * layer.fetch // layer.bytes)
            room += entry.layer.bytes
        return pause

    def _first_room(self, layer: Layer, earliest: int, pause: int) -> int:
        """When the first byte can move: with whole layers all wait together, a fluid fetch starts with any room."""
        if not pause or self.prefetch is Prefetch.WHOLE:
            return earliest + pause
        room = self.budget_bytes - self._used
        least = min(self.piece_bytes, layer.bytes)
        for entry in self._entries:
            if room >= least:
                break
            room += entry.layer.bytes
            earliest = max(earliest, entry.compute_end)
        return earliest

    def _place(self, entry: _LayerInFlight) -> int:
        """The recurrence for the layer behind all others, measured times first; returns IM as planned."""
        layer = entry.layer
        pause = 0
        if entry.measured_fetch_end is None:
            pause = self._fetch(entry)
        else:
            entry.fetch_start = entry.fetch_start if entry.measured_fetch_start is None else entry.measured_fetch_start
            entry.fetch_end = entry.measured_fetch_end
        compute_start = max(self.compute_free, entry.fetch_end)
        entry.compute_start = compute_start if entry.measured_compute_start is None else entry.measured_compute_start
        entry.compute_end = self._known(entry.measured_compute_end, entry.compute_start + layer.compute)
        self.memory_free, self.compute_free = entry.fetch_end, entry.compute_end
        self._entries.append(entry)
        self._used += layer.bytes
        return pause

    def _fetch(self, entry: _LayerInFlight) -> int:
        """Plan a fetch that has not been measured to its end; returns IM."""
        earliest = max(self.memory_free, entry.arrival)
        pause = self._pause(entry.layer, earliest)
        if entry.measured_fetch_start is None:
            entry.fetch_start = self._first_room(entry.layer, earliest, pause)
            fetch_end = earliest + pause + entry.layer.fetch
        else:
            entry.fetch_start = entry.measured_fetch_start
            fetch_end = entry.fetch_start + entry.layer.fetch
        entry.fetch_end = self._known(None, fetch_end)
        return pause

    def _known(self, measured: int | None, planned: int) -> int:
        """The measured time; else the planned one, which cannot lie in the past of an executor."""
        if measured is not None:
            return measured
        return max(planned, self._floor) if self.live else planned

    def _replan(self) -> None:
        """Plan everything that is in flight again."""
        entries, self._entries, self._used = self._entries, deque(), 0
        self.memory_free, self.compute_free = self._base
        for entry in entries:
            self._place(entry)

    def _retire(self) -> None:
        """Forget layers that can no longer hold back a fetch.

        In a plan those whose compute ends before the memory engine is free. Live, plans may still move: only those that
        are measured, and that retired before the last measured fetch ended (later ones cannot start before that).
        """
        entries = self._entries
        until = self.memory_free if not self.live else self._measured_until()
        while (
            entries
            and entries[0].compute_end <= until
            and (not self.live or entries[0].measured_compute_end is not None)
        ):
            first = entries.popleft()
            self._used -= first.layer.bytes
            self._base = (first.fetch_end, first.compute_end)

    def _measured_until(self) -> int:
        """The end of the last fetch in a row that was measured."""
        until = self._base[0]
        for entry in self._entries:
            if entry.measured_fetch_end is None:
                break
            until = entry.measured_fetch_end
        return until
