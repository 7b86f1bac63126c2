"""What stays in memory follows the demand, and mode Auto decides how models are served: on a thread of its own, beside
the batches that run.

A change takes two steps, so that memory never holds more than it may: units that go are kept by no batch that begins
from now on, those that have begun are waited for, then units that come are read. Where all models are to stay whole,
they are read one after the other, those in demand first, in the memory that was for weights in flight: batches of one
that is not there yet wait for it, and for it alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final

from batchwright_worker.layerwise.core.residency import (
    Residents,
    best_residents,
    first_within,
    fits,
    makespan,
    resident,
    total_bytes,
)
from batchwright_worker.layerwise.core.values import Layer
from batchwright_worker.layerwise.execution.executor import Executor
from batchwright_worker.layerwise.execution.jobs import LayerwiseBatch
from batchwright_worker.layerwise.execution.planner import UnitPlans
from batchwright_worker.layerwise.serving.accelerators import AcceleratorAdapter
from batchwright_worker.layerwise.serving.settings import LayerwiseSettings

__all__ = ["Residency", "better_in_turn"]

_LOG = logging.getLogger(__name__)
_HALF_LIFE_S: Final = 30.0
"""Of the demand that is remembered."""
_LEAST_GAIN: Final = 0.02
"""Of the time: what layer by layer must gain over whole models in turn."""
_GAIN_TO_LEAVE: Final = 0.04
"""What it must gain to be taken where models run in turn: measured times, and with them the gain, move a little."""
_TOLD_GAIN: Final = 0.1
"""By how much the gain must move to be told anew."""
_LONGEST_S: Final = 30.0
"""For batches that have begun; a change that would wait longer is left for the next time."""


class Residency:
    """`lock` is over models, plans and the beginning of batches. `counted`, `holds` and `in_turn` within it, the others
    without. `begin`: begins a batch, within the lock (it may raise)."""

    def __init__(
        self,
        executor: Executor,
        adapter: AcceleratorAdapter,
        plans: UnitPlans,
        settings: LayerwiseSettings,
        lock: threading.Lock,
        begin: Callable[[LayerwiseBatch], None],
    ) -> None:
        self._executor, self._adapter, self._plans, self._settings = executor, adapter, plans, settings
        self._lock, self._begin = lock, begin
        self._coming: dict[str, list[LayerwiseBatch]] = {}
        """Models that are being read to stay whole, and their batches that came meanwhile."""
        self._rows: dict[str, int] = {}
        self._residents: dict[str, frozenset[int]] = {}
        self._demand: dict[str, tuple[float, float]] = {}
        """By model: batches that decay, and as of when."""
        self._changing = threading.Lock()
        self.whole = False
        """Do all units of all models stay?"""
        self.in_turn = False
        """Are models run whole, one after the other?"""
        self.way = ""
        self._told_gain = 0.0

    def added(self, name: str, kept: frozenset[int]) -> None:
        """Within the lock: a model is there, and keeps these units."""
        self._residents[name], self._rows[name] = kept, 1

    def removed(self, name: str) -> None:
        """Within the lock."""
        self._residents.pop(name, None)
        self._rows.pop(name, None)
        self._demand.pop(name, None)

    def counted(self, name: str, rows: int) -> None:
        """Within the lock: a batch of a model begins."""
        now = time.monotonic()
        self._rows[name] = rows
        self._demand[name] = self._demand_at(name, now) + 1.0, now

    def holds(self, batch: LayerwiseBatch) -> bool:
        """Is its model being read to stay whole? Then the batch begins when it is there."""
        waiting = self._coming.get(batch.model)
        if waiting is None:
            return False
        batch.arrival = time.monotonic()
        waiting.append(batch)
        return True

    def wait_held(self) -> None:
        """Until what is held has begun."""
        if self._coming:
            with self._changing:
                pass

    def paused(self) -> AbstractContextManager[object]:
        """Nothing is revised within, and no batch is held: what stays does not change while a model comes or goes."""
        return self._changing

    def make_room(self) -> int:
        """Before a model is added, paused: every model keeps no more than its share, and so may the new one; bytes."""
        with self._lock:
            models = self._models()
            share = self._adapter.room_bytes // max(self._settings.models, len(models) + 1)
            kept = {
                name: first_within(
                    sorted((position, layers[position].bytes) for position in self._residents[name]), share
                )
                for name, layers in models.items()
            }
            self.whole = self.in_turn = False
            self.way = ""
            goes = any(self._residents[name] - positions for name, positions in kept.items())
            self._keep(kept)
        # What stays as it is holds up no load: after a loss one model after the other is loaded beside those that run.
        if goes:
            self._executor.wait_begun(_LONGEST_S)
        return share

    def revise(self) -> None:
        """Let what stays follow the demand."""
        with self._changing:
            with self._lock:
                models, now = self._models(), dict(self._residents)
                demand = {name: self._demand_at(name, time.monotonic()) for name in models}
            if not models:
                return
            whole = self._settings.mode == "Auto" and fits(models, self._adapter.whole_bytes)
            room, flight = self._adapter.room_bytes, self._executor.capacity
            wanted = best_residents(models, demand, self._adapter.whole_bytes if whole else room, flight, now)
            if wanted != now and not self._changed(wanted, demand, whole=whole):
                wanted, whole = dict(self._residents), False  # the next revision tries again
            self._choose(models, wanted, demand, whole=whole)

    def _changed(self, wanted: Residents, demand: Mapping[str, float], *, whole: bool) -> bool:
        """Keep these; false if batches that have begun took too long."""
        with self._lock:
            here = dict(self._residents)
            before = {name: here[name] & kept for name, kept in wanted.items()}
            self._keep(before)
            if whole:
                self._coming = {name: [] for name, kept in wanted.items() if here[name] != kept}
        done = False
        try:
            if self._executor.wait_begun(_LONGEST_S):
                self._read(wanted, demand, whole=whole)
                done = True
        finally:
            if whole and not done:
                with self._lock:
                    self._keep(before)  # beside which there is room for weights in flight
            for name in list(self._coming):
                self._let(name)
        return done

    def _read(self, wanted: Residents, demand: Mapping[str, float], *, whole: bool) -> None:
        if whole:
            # More stays than has room beside weights in flight: none are in flight from here on.
            self._adapter.forget()
        for name in sorted(wanted, key=lambda name: -demand.get(name, 0.0)):
            # Read outside the lock; batches that begin before the plan knows of it fetch what they need.
            self._adapter.keep(name, wanted[name])
            with self._lock:
                self._keep({name: wanted[name]})
            self._let(name)

    def _let(self, name: str) -> None:
        """Begin what came while the model was read."""
        failed = []
        with self._lock:
            for batch in self._coming.pop(name, ()):
                try:
                    self._begin(batch)
                except Exception as error:
                    batch.error = error
                    failed.append(batch)
        for batch in failed:
            batch.settled(batch)

    def _choose(
        self, models: Mapping[str, tuple[Layer, ...]], kept: Residents, demand: Mapping[str, float], *, whole: bool
    ) -> None:
        flight = self._executor.capacity
        self.whole = whole
        megabytes = total_bytes(models) / 1e6
        gain = 0.0
        if whole:
            self.in_turn = False
            way = f"whole: all weights ({megabytes:.1f} MB) stay in memoryBudgetBytes"
        else:
            layers = resident(models, kept)
            by_layer, by_model = (makespan(layers, demand, flight, in_turn=in_turn) for in_turn in (False, True))
            gain = by_model / max(by_layer, 1) - 1
            self.in_turn = self._settings.mode == "Auto" and better_in_turn(gain, now=self.in_turn)
            way = f"{'whole models in turn' if self.in_turn else 'layer by layer'}: the plan gains {gain:.0%} by layers"
        # The status says it: a gain that moves a little is not worth a write.
        if way.split(":")[0] != self.way.split(":")[0] or abs(gain - self._told_gain) > _TOLD_GAIN:
            _LOG.info("models are served %s", way)
            self.way, self._told_gain = way, gain

    def _keep(self, kept: Residents) -> None:
        """Within the lock."""
        for name, positions in kept.items():
            self._adapter.keep(name, positions)
            self._plans.keep(name, positions)
            self._residents[name] = positions

    def _models(self) -> dict[str, tuple[Layer, ...]]:
        return {name: self._plans.layers(name, self._rows[name], as_if_none_stayed=True) for name in self._residents}

    def _demand_at(self, name: str, now: float) -> float:
        count, since = self._demand.get(name, (0.0, now))
        return float(count * 0.5 ** ((now - since) / _HALF_LIFE_S))


def better_in_turn(gain: float, *, now: bool) -> bool:
    """Whole models in turn, where layer by layer would gain so much? `now`: is it so now."""
    return gain < (_GAIN_TO_LEAVE if now else _LEAST_GAIN)
