"""The service of one device: models are added and removed, their batches interleaved layer by layer in one budget."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from batchwright_worker.backends.base import Host, LoadError
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import StreamCounters
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.layerwise.core.policy import Balanced, Fifo, Literal, Policy
from batchwright_worker.layerwise.core.prefetch import better_prefetch
from batchwright_worker.layerwise.core.rollout import Rollout
from batchwright_worker.layerwise.core.skip_limit import auto_skip_limit, fill_time
from batchwright_worker.layerwise.core.steps import seconds_of_steps
from batchwright_worker.layerwise.core.values import Layer, Prefetch
from batchwright_worker.layerwise.execution.executor import Executor
from batchwright_worker.layerwise.execution.jobs import LayerwiseBatch, Settled
from batchwright_worker.layerwise.execution.planner import UnitPlans
from batchwright_worker.layerwise.profiling.profiler import Effort
from batchwright_worker.layerwise.serving.accelerators import AddedModel, adapter_of
from batchwright_worker.layerwise.serving.policy_plans import PolicyPlan, PolicyPlans
from batchwright_worker.layerwise.serving.residency import Residency
from batchwright_worker.layerwise.serving.settings import LayerwiseSettings

__all__ = ["Service"]

_LOG = logging.getLogger(__name__)

_OTHER_SIZE: Final = 1.5
"""Batches that are larger or smaller by this factor are planned for anew."""

_REVISED_AFTER: Final = 64
"""Batches after which the skip limit is worked out anew from what was measured meanwhile."""


_WRITTEN_EVERY_S: Final = 30.0
"""What was learned of the models is kept so often at most."""

_RESIDENTS_EVERY_S: Final = 5.0
"""What stays in memory follows the demand so often at most."""

_GAP_S: Final = 0.02
"""How long a measurement waits for the end of the batches that run: others are not held up, nor is the load."""


_REVISION_ENDS_S: Final = 5.0
"""How long a close waits for a change of what stays in memory."""

_ROLLOUT_UNIT_S: Final = 0.007
"""Mode Auto decides by rollout from this mean time of a unit on: a decision of 200 us is then 3 % of it at most."""


def _long_enough(models: Sequence[Sequence[Layer]]) -> bool:
    units = [max(layer.compute, layer.fetch) for layers in models for layer in layers]
    return seconds_of_steps(sum(units)) >= _ROLLOUT_UNIT_S * len(units)


class Service:
    """`add` and `remove` from one thread, `submit` from one (another, say: batches of other models run meanwhile);
    batches are settled on a third. `on_broken`: the device has failed."""

    def __init__(
        self, kind: str, settings: LayerwiseSettings, host: Host, on_broken: Callable[[BaseException], None]
    ) -> None:
        self._settings = settings
        self._adapter = adapter_of(kind, settings, host)
        self._plans = UnitPlans()
        self._added: dict[str, AddedModel] = {}
        self._rows: dict[str, int] = {}
        """Rows of each model's batches, as the policy knows them."""
        self._since_policy = 0
        self._written = 0.0
        self._lock = threading.Lock()
        """Over the models and their plans: not while one is opened and measured, or its last batches are waited for."""
        self._executor = Executor(self._adapter.device, Fifo(), self._plans.learn, on_broken)
        self._policies = PolicyPlans(self._policy_plan, self._use)
        self._residency = Residency(self._executor, self._adapter, self._plans, settings, self._lock, self._begin)
        self._revised = 0.0
        self._revisions = threading.Event()
        self._closing = threading.Event()
        self._revising = threading.Thread(target=self._revise_all, name="layerwise residency", daemon=True)
        self._revising.start()

    @property
    def reserved_bytes(self) -> int:
        """Memory for weights in flight, which no measurement of the process shows."""
        return 0 if self._residency.whole else self._adapter.reserved_bytes

    def add(self, source: ModelSource, *, again: bool = False) -> AddedModel:
        """Load a model, in the place of one of the same name, and measure it while no batch runs. `again`: it was
        served before, so that any profile of it will do for now. Raises LoadError."""
        self.remove(source.name)
        with self._residency.paused():
            share = self._residency.make_room()
            added = self._adapter.add(source, self._measuring(again=again), share)
            with self._lock:
                self._plans.add(source.name, added.profiles)
                self._plans.keep(source.name, added.resident)
                self._added[source.name] = added
                self._rows[source.name] = 1
                self._residency.added(source.name, added.resident)
                self._plan_anew()
        self._revisions.set()
        return added

    def _measuring(self, *, again: bool) -> Effort:
        return Effort(
            runs=20, least=3, seconds=2.0, any_profile=again, gap=lambda: self._executor.wait_idle(at_most_s=_GAP_S)
        )

    def remove(self, name: str) -> None:
        """Wait for the model's batches, then unload it; nothing happens if it is not here."""
        with self._lock:
            if self._added.pop(name, None) is None:
                return
        self._executor.wait_idle(name)
        with self._residency.paused():
            self._executor.wait_idle(name)  # what was held has begun
            with self._lock:
                corrected = self._plans.corrected(name)
                self._plans.remove(name)
                del self._rows[name]
                self._residency.removed(name)
                self._plan_anew()
            for profile in corrected:
                self._adapter.keep_profile(name, profile)
            self._adapter.remove(name)
        self._revisions.set()

    def remove_all(self) -> None:
        """Wait for all batches, then unload all models."""
        for name in list(self._added):
            self.remove(name)

    def wait_idle(self) -> None:
        """Returns when no batch is in flight."""
        self._residency.wait_held()
        self._executor.wait_idle()

    def submit(self, model: str, inputs: Mapping[str, Array], rows: int, settled: Settled) -> None:
        """Queue a batch; `settled` is called from another thread. Raises what is wrong with it."""
        with self._lock:
            if model not in self._added:
                raise LoadError(f"model {model!r} is not loaded here")
            self._follow(model, rows)
            self._residency.counted(model, rows)
            batch = LayerwiseBatch(model=model, inputs=inputs, rows=rows, layers=(), settled=settled)
            if not self._residency.holds(batch):
                self._begin(batch)

    def _begin(self, batch: LayerwiseBatch) -> None:
        """Within the lock."""
        batch.layers = self._plans.layers(batch.model, batch.rows)
        self._executor.submit(batch)

    def streams(self) -> StreamCounters:
        """The counters of both engines, and the memory."""
        totals, ring = self._executor.totals, self._adapter.device.ring
        return StreamCounters(
            compute_busy_seconds=totals.compute_busy_s,
            compute_idle_seconds=totals.compute_idle_s,
            memory_busy_seconds=totals.memory_busy_s,
            memory_idle_seconds=totals.memory_idle_s,
            decision_seconds=totals.decision_s,
            units=totals.units,
            bytes=totals.bytes,
            peak_bytes=ring.peak,
            capacity_bytes=ring.capacity,
            way=self._residency.way,
        )

    def close(self) -> None:
        """Finish what was submitted, then give everything back."""
        self._closing.set()
        self._revisions.set()
        self._revising.join(_REVISION_ENDS_S)  # it may be reading what is closed below
        self._policies.close()
        self._executor.close()
        self._adapter.close()

    def _follow(self, model: str, rows: int) -> None:
        """The skip limit is that of the batches that come: it falls as they grow, since compute grows with them and
        weights do not. Within the lock, so nothing is planned here."""
        self._since_policy += 1
        known = self._rows[model]
        other_size = not known / _OTHER_SIZE < rows < known * _OTHER_SIZE
        if other_size or self._since_policy >= _REVISED_AFTER:
            if other_size:
                self._rows[model] = rows
            self._since_policy = 0
            self._policies.follow(self._rows)
            self._write_back()
            if time.monotonic() - self._revised >= _RESIDENTS_EVERY_S:
                self._revisions.set()

    def _revise_all(self) -> None:
        while True:
            self._revisions.wait()
            self._revisions.clear()
            if self._closing.is_set():
                return
            self._revised = time.monotonic()
            try:
                self._residency.revise()
            except Exception:
                if self._closing.is_set():
                    return
                _LOG.exception("what stays in memory could not be changed")
            with self._lock:
                self._plan_anew()

    def _write_back(self) -> None:
        """Keep what was learned of the models for their next load, which a lost process may bring at any time."""
        now = time.monotonic()
        if now - self._written < _WRITTEN_EVERY_S:
            return
        self._written = now
        found = {name: self._plans.corrected(name) for name in self._added}
        kept = [(name, profile) for name, profiles in found.items() for profile in profiles]

        def write() -> None:
            for name, profile in kept:
                with contextlib.suppress(OSError, KeyError):  # the disk is full; the model is gone
                    self._adapter.keep_profile(name, profile)

        threading.Thread(target=write, name="layerwise profiles", daemon=True).start()

    def _plan_anew(self) -> None:
        """Within the lock: models, or what stays of them, have changed."""
        self._since_policy = 0
        self._policies.forget()
        if self._residency.in_turn or not self._added:
            self._executor.use(Fifo())
        self._policies.follow(self._rows)

    def _policy_plan(self, rows: Mapping[str, int]) -> PolicyPlan | None:
        """On the planning thread: the lock is held for the models' layers alone."""
        with self._lock:
            if rows.keys() != self._added.keys():
                return None
            in_turn = self._residency.in_turn or not rows
            layers = [self._plans.layers(model, number) for model, number in rows.items()]
        device = self._adapter.device
        prefetch = better_prefetch(layers, device.ring.capacity, device.piece_bytes) if layers else Prefetch.WHOLE
        return PolicyPlan(policy=Fifo if in_turn else self._policy_of(layers), prefetch=prefetch)

    def _policy_of(self, layers: Sequence[tuple[Layer, ...]]) -> Callable[[], Policy]:
        """With the user's skip limit, else the one that the measured times ask for (auto-N)."""
        budget, given = self._adapter.device.ring.capacity, self._settings.skip_limit
        limit = auto_skip_limit(layers, budget) if given is None else given
        if self._settings.mode == "Literal":
            return lambda: Literal(skip_limit=limit)
        filled = fill_time(layers, budget)
        if self._settings.mode == "Rollout" or (self._settings.mode == "Auto" and _long_enough(layers)):
            return lambda: Rollout(skip_limit=limit, fill_time=filled)
        return lambda: Balanced(skip_limit=limit, fill_time=filled)

    def _use(self, plan: PolicyPlan) -> None:
        self._executor.use(plan.policy(), plan.prefetch)

    def planned(self, at_most_s: float = 20.0) -> tuple[Policy, Prefetch]:
        """What is in force once everything that has come is planned for."""
        self._policies.settled(at_most_s)
        return self._executor.policy, self._executor.prefetch
