"""The models that this process has loaded: load, try and warm up, run, unload; time and memory of each are measured."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np

from batchwright_worker import backends
from batchwright_worker.backends.base import (
    BadRowsError,
    Host,
    LoadedModel,
    NeedsNoWarmup,
    OutOfDeviceMemoryError,
    Overlapping,
    ReportsWeights,
)
from batchwright_worker.batching.samples import ANY, warm_up_rows
from batchwright_worker.host.memory import Meter, release_memory
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import BatchPlan
from batchwright_worker.ipc.messages import ModelSource
from batchwright_worker.runtime.calls import begin_batch, run_batch
from batchwright_worker.runtime.settling import settled

_MEASURE_EVERY: Final = 64
_GROWN_BYTES: Final = 16 << 20
"""A batch that is not measured, but after which the process holds so much more, is reported all the same: else models
that keep memory pass their budget long before the next measurement."""
_TRAITS: Final[dict[tuple[type, Any], bool]] = {}


@dataclass(slots=True, kw_only=True)
class _MeasuredModel:
    """`base_bytes`: memory used right after the load; `largest`: the most elements of a batch that was measured;
    `message`: what went wrong in the warm-up."""

    model: LoadedModel
    source: ModelSource
    plan: BatchPlan
    memory_bytes: int
    message: str = ""
    warmup_bytes: int = 0
    seconds: float = 0.0
    retained_bytes: int = 0
    largest: int = 0
    runs: Iterator[int] = field(default_factory=itertools.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """One batch done. `batch_bytes` -1: not measured this time; `retained_bytes` of them stay with the model."""

    outputs: Mapping[str, Array]
    device_seconds: float
    batch_bytes: int
    retained_bytes: int
    row_errors: Mapping[int, str]
    measured: bool = True
    """Is it worth asking how much memory is used now?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _BatchMeasurement:
    """`before`: memory used before the batch, None where this one is not measured; `moves` when it began."""

    elements: int
    before: int | None = None
    moves: int = 0


class NotLoadedError(Exception):
    """A batch for a model that is not here."""


class LoadedModels:
    """Not thread-safe, except that a `load` may run on a thread of its own while batches run (loads that overlap)."""

    def __init__(self, host: Host, meter: Meter) -> None:
        self._host = host
        self._meter = meter
        self._models: dict[str, _MeasuredModel] = {}
        self._last_end = 0.0
        self._moves = 0
        """Counts begins and ends of loads, and unloads: a batch that overlaps one cannot be measured."""
        self._loading = False
        self._known: dict[str, tuple[ModelSource, int]] = {}
        """Bytes that the warm-up took, of models that need one warm-up in a process's life."""
        self._batches = 0
        """Batches that have begun; whether one runs now."""
        self._runs = False
        self._undisturbed: dict[str, tuple[ModelSource, int]] = {}
        """Bytes that a load took while no batch ran, which may have allocated and freed meanwhile."""

    def load(self, source: ModelSource, plan: BatchPlan | None = None, untried: str = "") -> _MeasuredModel:
        """Loads, tries the model (not where a `plan` is known, or `untried` says why not), and runs one warm-up
        inference. Raises LoadError, OutOfDeviceMemoryError, or what the loader raises."""
        loaded = self._models.get(source.name)
        if loaded is not None and loaded.source == source:
            return loaded
        self.unload(source.name)
        self._moves, self._loading = self._moves + 1, True
        try:
            return self._load(source, plan, untried)
        finally:
            self._moves, self._loading = self._moves + 1, False

    def _load(self, source: ModelSource, plan: BatchPlan | None, untried: str) -> _MeasuredModel:
        begin, before, batches = time.monotonic(), self._meter.used(), self._batches
        model = backends.load(source, self._host)
        grown = max(0, self._meter.used() - before)
        if _is(model, ReportsWeights):
            taken = cast(ReportsWeights, model).weights_bytes
        else:
            taken = self._grown(source, grown, is_quiet=self._is_quiet_since(batches))
        seconds = time.monotonic() - begin
        try:
            plan = plan or self._plan(model, source, untried)
            if _is(model, Overlapping):
                cast(Overlapping, model).use(plan)
            warming = time.monotonic()
            loaded = _MeasuredModel(model=model, source=source, plan=plan, memory_bytes=taken, seconds=seconds)
            loaded.warmup_bytes = self._warmed_up(loaded)
        except BaseException:
            model.close()
            release_memory()
            raise
        if not _is(model, NeedsNoWarmup):
            loaded.seconds += time.monotonic() - warming  # the warm-up is part of every load, the trials are not
        self._models[source.name] = loaded
        return loaded

    def _is_quiet_since(self, batches: int) -> bool:
        """Has no batch run since so many had begun?"""
        return not self._runs and self._batches == batches

    def _grown(self, source: ModelSource, grown: int, *, is_quiet: bool) -> int:
        """What a load has taken: measured beside batches it says less than an earlier one that was not."""
        known = self._undisturbed.get(source.name)
        if is_quiet:
            self._undisturbed[source.name] = (source, grown)
        elif known is not None and known[0] == source:
            return known[1]
        return grown

    def _plan(self, model: LoadedModel, source: ModelSource, untried: str) -> BatchPlan:
        if _is(model, NeedsNoWarmup):
            inputs, outputs = tuple(model.inputs), tuple(model.outputs)
            return BatchPlan(mode="Rows", inputs=inputs, outputs=outputs, sample=ANY)
        return settled(model, source, untried, alone=not self._models)

    def unload(self, name: str) -> None:
        """Gives the memory back; nothing happens if the model is not here."""
        loaded = self._models.pop(name, None)
        if loaded is not None:
            self._moves += 1
            outside = _is(loaded.model, ReportsWeights)
            loaded.model.close()
            del loaded
            if not outside:
                release_memory()

    def unload_all(self) -> None:
        """A new sidecar starts with an empty runtime."""
        for name in list(self._models):
            self.unload(name)

    def run(self, name: str, inputs: Mapping[str, Array], rows: int) -> RunOutcome:
        """One batch. Raises NotLoadedError, OutOfDeviceMemoryError, or what the model raises."""
        loaded = self._model(name)
        measurement = self._begin_measurement(loaded, inputs)
        self._batches, self._runs = self._batches + 1, True
        begin = time.perf_counter()
        try:
            outputs, errors = _run_good_rows(loaded, inputs, rows)
        finally:
            self._runs = False
        return self._outcome(loaded, measurement, outputs, errors, time.perf_counter() - begin)

    def overlaps(self, name: str) -> bool:
        """May the next batch of this model begin before one ends?"""
        loaded = self._models.get(name)
        return loaded is not None and _is(loaded.model, Overlapping)

    def begin(self, name: str, inputs: Mapping[str, Array], rows: int) -> Callable[[], RunOutcome]:
        """As `run`, in two steps, for models that overlap. A batch's time counts from when the one before it ended."""
        loaded = self._model(name)
        assert _is(loaded.model, Overlapping), f"model {name!r} cannot begin a batch while another one runs"
        measurement = self._begin_measurement(loaded, inputs)
        began = time.perf_counter()
        finish = begin_batch(loaded.model, loaded.plan, inputs, rows)

        def ended() -> RunOutcome:
            outputs = finish()
            now = time.perf_counter()
            seconds, self._last_end = now - max(began, self._last_end), now
            return self._outcome(loaded, measurement, outputs, {}, seconds)

        return ended

    def _model(self, name: str) -> _MeasuredModel:
        loaded = self._models.get(name)
        if loaded is None:
            raise NotLoadedError(f"model {name!r} is not loaded here")
        return loaded

    def _begin_measurement(self, loaded: _MeasuredModel, inputs: Mapping[str, Array]) -> _BatchMeasurement:
        """The first batch, every _MEASURE_EVERY-th one and every one larger than those before is measured."""
        elements = sum(array.size for array in inputs.values())
        if self._loading or (elements <= loaded.largest and next(loaded.runs) % _MEASURE_EVERY):
            return _BatchMeasurement(elements=elements)
        before = self._meter.used()
        self._meter.start_peak()
        return _BatchMeasurement(elements=elements, before=before, moves=self._moves)

    def _outcome(
        self,
        loaded: _MeasuredModel,
        measurement: _BatchMeasurement,
        outputs: Mapping[str, Array],
        errors: Mapping[int, str],
        seconds: float,
    ) -> RunOutcome:
        batch_bytes = -1
        if measurement.before is not None and measurement.moves == self._moves:
            batch_bytes = self._batch_bytes(loaded, measurement.before)
            loaded.largest = max(loaded.largest, measurement.elements)
        grown = batch_bytes < 0 and not self._loading and self._meter.growth() > _GROWN_BYTES
        if grown:
            loaded.retained_bytes += self._meter.growth()
        return RunOutcome(
            outputs=outputs,
            device_seconds=seconds,
            batch_bytes=batch_bytes,
            retained_bytes=loaded.retained_bytes,
            row_errors=errors,
            measured=batch_bytes >= 0 or grown,
        )

    def _batch_bytes(self, loaded: _MeasuredModel, before: int) -> int:
        """Bytes that the batch added, and those that earlier batches added and the model's allocator has kept since."""
        batch_bytes = loaded.retained_bytes + max(0, self._meter.peak() - before)
        loaded.retained_bytes += max(0, self._meter.used() - before)
        return batch_bytes

    def _warmed_up(self, loaded: _MeasuredModel) -> int:
        """Bytes that one row took, now or at an earlier load of a model that is as fast at once as later."""
        source = loaded.source
        known = self._known.get(source.name)
        if known is not None and known[0] == source:
            return known[1]
        taken = self._warm_up(loaded)
        if _is(loaded.model, NeedsNoWarmup):
            self._known[source.name] = (source, taken)
        return taken

    def _warm_up(self, loaded: _MeasuredModel) -> int:
        """Bytes that one row (or one piece) took; 0 where it could not be run, which `message` tells."""
        plan, rows = loaded.plan, max(1, loaded.plan.piece)
        if plan.sample is None:
            return 0
        self._meter.start_peak()
        before, batches = self._meter.used(), self._batches
        try:
            run_batch(loaded.model, plan, warm_up_rows(plan, loaded.source.warmup, rows), rows)
        except (MemoryError, OutOfDeviceMemoryError):
            raise
        except Exception as error:
            loaded.message = f"its warm-up failed: {type(error).__name__}: {error}"
            return 0
        # Measured beside other batches it would say too much, for good; the first batch of its own is measured anyway.
        return self._batch_bytes(loaded, before) if self._is_quiet_since(batches) else 0


def _is(model: LoadedModel, trait: Any) -> bool:
    """isinstance for protocols, where it is slow: once per class, because every batch asks."""
    key = (type(model), trait)
    if key not in _TRAITS:
        _TRAITS[key] = isinstance(model, trait)
    return _TRAITS[key]


def _run_good_rows(
    loaded: _MeasuredModel, inputs: Mapping[str, Array], rows: int
) -> tuple[Mapping[str, Array], Mapping[int, str]]:
    """Runs the batch; if the model names bad rows, once more with those replaced by a good one."""
    plan = loaded.plan
    try:
        return run_batch(loaded.model, plan, inputs, rows), {}
    except BadRowsError as error:
        if plan.whole or plan.piece not in (0, rows):
            raise  # the rows that it counts are not those of the batch
        good = [row for row in range(rows) if row not in error.rows]
        if not good:
            return {}, error.rows
        chosen = np.array([row if row not in error.rows else good[0] for row in range(rows)])
        whole = plan.unbatched_inputs
        replaced = {name: array if name in whole else array[chosen] for name, array in inputs.items()}
        return run_batch(loaded.model, plan, replaced, rows), error.rows
