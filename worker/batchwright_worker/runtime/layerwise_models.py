"""A runtime that serves its models layer by layer: loads and runs as asked, answers batches in the order they end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from batchwright_worker.backends.base import Host
from batchwright_worker.host.memory import Meter, give_back
from batchwright_worker.ipc.messages import Answer, Load, Loaded, LoadRefused, Ran, Run, Streamed, Unload, Unloaded
from batchwright_worker.ipc.slots import Slot, SlotCache
from batchwright_worker.ipc.tensors import read, sized, write
from batchwright_worker.layerwise.execution.jobs import LayerwiseBatch
from batchwright_worker.layerwise.profiling.profiles import Profile
from batchwright_worker.layerwise.serving.accelerators import AddedModel
from batchwright_worker.layerwise.serving.service import Service
from batchwright_worker.layerwise.serving.settings import LayerwiseSettings

__all__ = ["StreamedModels"]

Send = Callable[[Answer], None]
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class StreamedModels:
    """Stands where `Residents` stands in a runtime of whole models."""

    service: Service
    meter: Meter
    slots: SlotCache

    @classmethod
    def of(cls, kind: str, settings: LayerwiseSettings, host: Host, meter: Meter, slots: SlotCache) -> StreamedModels:
        return cls(Service(kind, settings, host, _end), meter, slots)

    def take(self, ask: Run, send: Send, refusal: Callable[[int, BaseException], LoadRefused]) -> None:
        """Line a batch up; it is answered once, from the executor's thread or at once where it cannot begin."""
        try:
            asked = time.perf_counter()
            slot = self.slots.get(ask.slot, ask.offset_free)
            inputs = {placed.name: read(slot.view, placed) for placed in ask.inputs}
            self.service.submit(
                ask.model, inputs, ask.rows, lambda batch: send(self._ran(ask, slot, asked, batch, refusal))
            )
        except Exception as error:
            send(refusal(ask.call, error))

    def load(self, ask: Load) -> Loaded:
        """As Residents.load; the warm-up is the profiler's."""
        begin, before = time.monotonic(), self.meter.used()
        added = self.service.add(ask.source)
        return Loaded(
            call=ask.call,
            inputs=list(added.inputs),
            outputs=list(added.outputs),
            memory_bytes=max(0, self.meter.used() - before),
            warmup_bytes=0,
            seconds=time.monotonic() - begin,
            memory_used_bytes=self.used(),
            streamed=summary(added),
        )

    def unload(self, ask: Unload) -> Unloaded:
        """Waits for the model's batches."""
        self.service.remove(ask.model)
        give_back()
        return Unloaded(call=ask.call, memory_used_bytes=self.used())

    def unload_all(self) -> None:
        """Waits for all batches."""
        self.service.remove_all()

    def used(self) -> int:
        """What the process holds, and the memory for weights in flight (which is shared memory to the kernel)."""
        return self.meter.used() + self.service.reserved_bytes

    def close(self) -> None:
        self.service.close()

    def _ran(
        self,
        ask: Run,
        slot: Slot,
        asked: float,
        batch: LayerwiseBatch,
        refusal: Callable[[int, BaseException], LoadRefused],
    ) -> Answer:
        if batch.error is not None:
            return refusal(ask.call, batch.error)
        try:
            ended = time.perf_counter()
            outputs = {name: np.asarray(array) for name, array in batch.outputs.items()}
            slot.grow(sized(ask.offset_free, outputs))
            written = write(slot.view, ask.offset_free, outputs)
        except Exception as error:
            return refusal(ask.call, error)
        return Ran(
            call=ask.call,
            outputs=written,
            device_seconds=ended - asked,
            batch_bytes=-1,
            slot_bytes=slot.size,
            memory_used_bytes=-1,
            output_seconds=time.perf_counter() - ended,
            streams=self.service.streams(),
        )


def _end(error: BaseException) -> None:
    """The device has failed: only a new process can serve again, and the supervisor starts one."""
    _log.critical("the layerwise executor has failed", exc_info=error)
    os._exit(1)


def summary(added: AddedModel) -> Streamed:
    """What is told of a model's units, at the smallest batch that was measured."""
    profile: Profile = min(added.profiles, key=lambda each: each.rows)
    return Streamed(
        units=len(profile.bytes),
        resident_units=len(added.resident),
        weight_bytes=sum(profile.bytes),
        compute_milliseconds=profile.total_compute_s * 1e3,
        fetch_milliseconds=profile.total_fetch_s * 1e3,
    )
