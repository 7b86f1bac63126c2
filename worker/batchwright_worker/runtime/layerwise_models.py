"""Models that are served layer by layer: batches share both engines and get their responses in the order they end."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable

import numpy as np

from batchwright_worker.backends.base import Host, LoadRefusedError
from batchwright_worker.host.memory import Meter, release_memory
from batchwright_worker.inference.runtime import StreamedModel
from batchwright_worker.ipc.messages import Load, Loaded, Ran, Run, RuntimeResponse, Unload, Unloaded
from batchwright_worker.ipc.slots import Slot, SlotCache
from batchwright_worker.ipc.tensors import read, sized, write
from batchwright_worker.layerwise.execution.jobs import LayerwiseBatch
from batchwright_worker.layerwise.serving.accelerators import AddedModel
from batchwright_worker.layerwise.serving.service import Service
from batchwright_worker.layerwise.serving.settings import LayerwiseSettings
from batchwright_worker.runtime.layerwise_trials import rows_plan
from batchwright_worker.runtime.model_digests import ModelDigests
from batchwright_worker.runtime.responses import ResponseSender, failed

__all__ = ["LayerwiseModels"]

_LOG = logging.getLogger(__name__)


class LayerwiseModels:
    """See `RuntimeModels`."""

    def __init__(self, service: Service, meter: Meter, slots: SlotCache, on_loaded: Callable[[], None]) -> None:
        self._service = service
        self._meter = meter
        self._slots = slots
        self._on_loaded = on_loaded
        self._digests = ModelDigests()
        self._ended: dict[str, float] = {}
        """When the last batch of each model ended."""
        self._changes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        """Loads and unloads, one after the other: batches of other models run meanwhile."""
        threading.Thread(target=self._change, name="layerwise loads", daemon=True).start()

    @classmethod
    def of(
        cls, settings: LayerwiseSettings, host: Host, meter: Meter, slots: SlotCache, on_loaded: Callable[[], None]
    ) -> LayerwiseModels:
        """On the accelerator of this process."""
        return cls(Service(host.kind, settings, host, _end_process), meter, slots, on_loaded)

    def take(self, request: Load | Unload | Run, sender: ResponseSender) -> None:
        """See `RuntimeModels.take`. A batch's response comes from the executor's thread."""
        if isinstance(request, Run):
            self._submit(request, sender)
        else:
            self._changes.put(lambda: sender.send_if_connected(self._response(request)))

    def finish(self) -> None:
        """See `RuntimeModels.finish`."""
        self._service.wait_idle()

    def unload_all(self) -> None:
        """See `RuntimeModels.unload_all`."""
        # What is still loaded for a sidecar that is gone would stay behind, unknown to the next one.
        done = threading.Event()
        self._changes.put(done.set)
        done.wait()
        self._service.remove_all()

    def _change(self) -> None:
        while True:
            self._changes.get()()

    def used_bytes(self) -> int:
        """What the process holds, and the memory for weights in flight (which is shared memory to the kernel)."""
        return self._meter.used() + self._service.reserved_bytes

    def close(self) -> None:
        """See `RuntimeModels.close`."""
        self._service.close()

    def _submit(self, request: Run, sender: ResponseSender) -> None:
        try:
            received = time.perf_counter()
            slot = self._slots.get(request.slot, request.offset_free)
            inputs = {placed.name: read(slot.view, placed) for placed in request.inputs}
            self._service.submit(
                request.model,
                inputs,
                request.rows,
                lambda batch: sender.send_if_connected(self._ran(request, slot, received, batch)),
            )
        except Exception as error:
            sender.send_if_connected(failed(request.call, error))

    def _response(self, request: Load | Unload) -> RuntimeResponse:
        try:
            return self._load(request) if isinstance(request, Load) else self._unload(request)
        except BaseException as error:  # what a model raises, sys.exit too: the process holds other models
            return failed(request.call, error)

    def _load(self, request: Load) -> Loaded:
        source = request.source
        if source.mode == "Whole" or not all(spec.batched for spec in (*source.inputs, *source.outputs)):
            raise LoadRefusedError(
                f"model {source.name!r}: layer by layer only models of rows are served, without batching.mode: Whole "
                'and batched: false; write layerwise: {mode: "Off"}'
            )
        digest = self._digests.begin(source)
        begin, before = time.monotonic(), self._meter.used()
        added = self._service.add(source, again=request.plan is not None)
        plan = request.plan
        if plan is None and source.format != "emulated":
            try:
                plan = rows_plan(self._service, added, source, request.untried)
            except BaseException:
                self._service.remove(source.name)
                raise
        loaded = Loaded(
            call=request.call,
            inputs=list(plan.inputs if plan is not None else added.inputs),
            outputs=list(plan.outputs if plan is not None else added.outputs),
            memory_bytes=max(0, self._meter.used() - before),
            warmup_bytes=0,  # the profiler's runs are the warm-up
            seconds=time.monotonic() - begin,
            memory_used_bytes=self.used_bytes(),
            streamed=_summary(added),
            plan=plan,
            digest=digest(),
        )
        self._on_loaded()
        return loaded

    def _unload(self, request: Unload) -> Unloaded:
        self._service.remove(request.model)
        release_memory()
        return Unloaded(call=request.call, memory_used_bytes=self.used_bytes())

    def _ran(self, request: Run, slot: Slot, received: float, batch: LayerwiseBatch) -> RuntimeResponse:
        if batch.error is not None:
            return failed(request.call, batch.error)
        try:
            ended = time.perf_counter()
            # What it waited behind the batch of its model before it is no time of its own.
            began = max(received, self._ended.get(request.model, 0.0))
            self._ended[request.model] = ended
            outputs = {name: np.asarray(array) for name, array in batch.outputs.items()}
            slot.grow(sized(request.offset_free, outputs))
            written = write(slot.view, request.offset_free, outputs)
        except Exception as error:
            return failed(request.call, error)
        return Ran(
            call=request.call,
            outputs=written,
            device_seconds=ended - began,
            batch_bytes=-1,
            slot_bytes=slot.size,
            memory_used_bytes=-1,
            output_seconds=time.perf_counter() - ended,
            streams=self._service.streams(),
        )


def _end_process(error: BaseException) -> None:
    """The device has failed: only a new process can serve again, and the supervisor starts one."""
    _LOG.critical("the layerwise executor has failed", exc_info=error)
    os._exit(1)


def _summary(added: AddedModel) -> StreamedModel:
    """The model's units at the smallest batch that was measured."""
    profile = min(added.profiles, key=lambda each: each.rows)
    return StreamedModel(
        units=len(profile.bytes),
        resident_units=len(added.resident),
        weight_bytes=sum(profile.bytes),
        compute_milliseconds=profile.total_compute_s * 1e3,
        fetch_milliseconds=profile.total_fetch_s * 1e3,
        table_bytes=added.table_bytes,
    )
