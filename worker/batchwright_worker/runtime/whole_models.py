"""Models that are loaded whole: batches one after the other, or several in flight where a model's device takes them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from batchwright_worker.backends.base import Host
from batchwright_worker.host.memory import Meter
from batchwright_worker.ipc.messages import Load, Loaded, Ran, Run, RuntimeResponse, Unload, Unloaded
from batchwright_worker.ipc.slots import Slot, SlotCache
from batchwright_worker.ipc.tensors import read, sized, write
from batchwright_worker.runtime.in_flight import BatchesInFlight
from batchwright_worker.runtime.loaded_models import LoadedModels, RunOutcome
from batchwright_worker.runtime.model_digests import ModelDigests
from batchwright_worker.runtime.responses import ResponseSender, failed, row_errors

__all__ = ["WholeModels"]


class WholeModels:
    """See `RuntimeModels`."""

    def __init__(self, host: Host, meter: Meter, slots: SlotCache, on_loaded: Callable[[], None]) -> None:
        self._models = LoadedModels(host, meter)
        self._digests = ModelDigests()
        self._meter = meter
        self._slots = slots
        self._on_loaded = on_loaded
        self._in_flight = BatchesInFlight()
        self._loads: list[threading.Thread] = []
        """Loads that overlap batches, each on a thread of its own."""

    def take(self, request: Load | Unload | Run, sender: ResponseSender) -> None:
        """See `RuntimeModels.take`."""
        if isinstance(request, Run) and self._models.overlaps(request.model):
            self._begin(request, sender)
        elif isinstance(request, Load) and request.beside_batches:
            self._load_on_thread(request, sender)
        else:
            # Responses keep the order of the requests, so batches in flight end first. Not for the unload of a model
            # without any: a load that is to overlap batches waits for the memory that it frees.
            if not isinstance(request, Unload) or request.model in self._in_flight:
                self._in_flight.drain()
            sender.send(self._response(request))

    def finish(self) -> None:
        """See `RuntimeModels.finish`."""
        self._in_flight.drain()

    def unload_all(self) -> None:
        """See `RuntimeModels.unload_all`."""
        # What a thread still loads for a sidecar that is gone would stay behind, loaded and unknown to the next one.
        for load in self._loads:
            load.join()
        self._loads.clear()
        self._models.unload_all()

    def used_bytes(self) -> int:
        """See `RuntimeModels.used_bytes`."""
        return self._meter.used()

    def close(self) -> None:
        """The end of the process frees everything."""

    def _begin(self, request: Run, sender: ResponseSender) -> None:
        """Queue the batch on the device; the thread of the batches in flight sends its response."""
        try:
            finish = self._begun(request)
        except BaseException as error:
            self._in_flight.drain()  # responses keep the order of the requests
            sender.send(failed(request.call, error))
            return

        def end() -> None:
            response: RuntimeResponse
            try:
                response = finish()
            except BaseException as error:  # else the thread ends, and with it the responses
                response = failed(request.call, error)
            sender.send_if_connected(response)

        self._in_flight.push(request.model, end)

    def _load_on_thread(self, request: Load, sender: ResponseSender) -> None:
        def work() -> None:
            with contextlib.suppress(ConnectionError):
                sender.send(self._response(request))

        self._loads = [load for load in self._loads if load.is_alive()]
        self._loads.append(threading.Thread(target=work, daemon=True))
        self._loads[-1].start()

    def _response(self, request: Load | Unload | Run) -> RuntimeResponse:
        try:
            if isinstance(request, Run):
                return self._run(request)
            return self._load(request) if isinstance(request, Load) else self._unload(request)
        except BaseException as error:  # what a model raises, sys.exit too: the process holds other models
            return failed(request.call, error)

    def _load(self, request: Load) -> Loaded:
        digest = self._digests.begin(request.source)
        loaded = self._models.load(request.source, request.plan, request.untried)
        self._on_loaded()
        return Loaded(
            call=request.call,
            inputs=list(loaded.plan.inputs),
            outputs=list(loaded.plan.outputs),
            memory_bytes=loaded.memory_bytes,
            warmup_bytes=loaded.warmup_bytes,
            seconds=loaded.seconds,
            memory_used_bytes=self._meter.used(),
            plan=loaded.plan,
            message=loaded.message,
            digest=digest(),
        )

    def _unload(self, request: Unload) -> Unloaded:
        self._models.unload(request.model)
        return Unloaded(call=request.call, memory_used_bytes=self._meter.used())

    def _run(self, request: Run) -> Ran:
        received = time.perf_counter()
        slot, inputs = self._inputs(request)
        began = time.perf_counter()
        outcome = self._models.run(request.model, inputs, request.rows)
        return self._ran(request, slot, outcome, began - received)

    def _begun(self, request: Run) -> Callable[[], Ran]:
        """As `_run`, in two steps."""
        received = time.perf_counter()
        slot, inputs = self._inputs(request)
        began = time.perf_counter()
        finish = self._models.begin(request.model, inputs, request.rows)
        return lambda: self._ran(request, slot, finish(), began - received)

    def _inputs(self, request: Run) -> tuple[Slot, dict[str, Any]]:
        slot = self._slots.get(request.slot, request.offset_free)
        return slot, {placed.name: read(slot.view, placed) for placed in request.inputs}

    def _ran(self, request: Run, slot: Slot, outcome: RunOutcome, input_seconds: float) -> Ran:
        ended = time.perf_counter()
        outputs = {name: np.asarray(array) for name, array in outcome.outputs.items()}
        slot.grow(sized(request.offset_free, outputs))
        written = write(slot.view, request.offset_free, outputs)
        return Ran(
            call=request.call,
            outputs=written,
            device_seconds=outcome.device_seconds,
            batch_bytes=outcome.batch_bytes,
            slot_bytes=slot.size,
            # Asking the meter reads /proc or calls a driver: only with a batch that was measured anyway.
            memory_used_bytes=self._meter.used() if outcome.measured else -1,
            row_errors=row_errors(outcome.row_errors),
            retained_bytes=outcome.retained_bytes,
            input_seconds=input_seconds,
            output_seconds=time.perf_counter() - ended,
        )
