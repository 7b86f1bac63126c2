"""The process that the supervisor forks: builds the models of its device, whole or by layers, and serves them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from functools import partial

from batchwright_worker.api.names import ENV_KIND, KIND_CPU
from batchwright_worker.backends.base import Host
from batchwright_worker.host.accelerators import meter_of
from batchwright_worker.host.memory import EmulatedMemory, Meter, emulated_memory_bytes, freeze_objects
from batchwright_worker.host.threads import thread_count
from batchwright_worker.ipc.slots import SlotCache
from batchwright_worker.layerwise.serving.settings import from_environment
from batchwright_worker.runtime.models import RuntimeModels
from batchwright_worker.runtime.server import Server
from batchwright_worker.runtime.supervisor import LOADED, SERVING
from batchwright_worker.runtime.whole_models import WholeModels

__all__ = ["serve"]


def serve(listener: socket.socket, said: int) -> None:
    """Until SIGTERM (SystemExit). Writes SERVING to the pipe `said` when it can accept its sidecar, LOADED whenever a
    model is loaded."""

    def say(what: bytes) -> None:
        # The pipe is full: the supervisor has not read the bytes before, and one of them is enough.
        with contextlib.suppress(BlockingIOError):
            os.write(said, what)

    freeze_objects()
    kind = os.environ.get(ENV_KIND, KIND_CPU)
    emulated_memory = EmulatedMemory(emulated_memory_bytes())
    meter = meter_of(kind, emulated_memory)
    host = Host(kind=kind, threads=thread_count(), emulated_memory=emulated_memory)
    slots = SlotCache()
    models = _models(host, meter, slots, partial(say, LOADED))
    say(SERVING)
    Server(models, slots, device=kind, total_bytes=meter.total_bytes).serve(listener)


def _models(host: Host, meter: Meter, slots: SlotCache, on_loaded: Callable[[], None]) -> RuntimeModels:
    settings = from_environment()
    if settings is None:
        return WholeModels(host, meter, slots, on_loaded)
    # Imported only where the deployment asks for it: the executor and its libraries take time and memory.
    from batchwright_worker.runtime.layerwise_models import LayerwiseModels

    return LayerwiseModels.of(settings, host, meter, slots, on_loaded)
