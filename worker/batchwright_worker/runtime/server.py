"""The runtime process: accepts its sidecar, answers its asks one after the other, keeps tensors in shared memory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from batchwright_worker.api.names import ENV_KIND, KIND_CPU
from batchwright_worker.backends.base import Host, OutOfDeviceMemoryError
from batchwright_worker.host.memory import EmulatedMemory, Meter, emulated_memory_bytes, meter_of, settle_objects
from batchwright_worker.host.threads import thread_count
from batchwright_worker.ipc.frames import BrokenFrameError, FrameDecoder, encode
from batchwright_worker.ipc.messages import (
    Answer,
    Ask,
    Hello,
    Load,
    Loaded,
    LoadRefused,
    Ran,
    Run,
    Unload,
    Unloaded,
    Welcome,
)
from batchwright_worker.ipc.slots import Slot, SlotCache, SlotsFullError
from batchwright_worker.ipc.tensors import read, sized, write
from batchwright_worker.layerwise.serving.settings import from_environment
from batchwright_worker.runtime.in_flight import InFlight
from batchwright_worker.runtime.loaded_models import LoadedModels, RunOutcome

if TYPE_CHECKING:
    from batchwright_worker.runtime.layerwise_models import StreamedModels

_RECEIVE_BYTES = 1 << 18


class Stop:
    """SIGTERM: at once when nothing runs, else after the batch that runs."""

    def __init__(self) -> None:
        self.asked = False
        self._busy = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def __enter__(self) -> None:
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False
        if self.asked:
            raise SystemExit(0)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if not self._busy:
            raise SystemExit(0)


class Server:
    """Serves one sidecar at a time; each new one finds no models loaded."""

    def __init__(self, on_loaded: Callable[[], None]) -> None:
        kind = os.environ.get(ENV_KIND, KIND_CPU)
        ledger = EmulatedMemory(emulated_memory_bytes())
        self._meter = meter_of(kind, ledger)
        self._kind = kind
        host = Host(kind=kind, threads=thread_count(), ledger=ledger)
        self._residents = LoadedModels(host, self._meter)
        self._slots = SlotCache()
        self._streamed = _streamed(kind, host, self._meter, self._slots)
        """Instead of the residents, where the deployment asks for layerwise."""
        self._on_loaded = on_loaded
        self._stop = Stop()
        self._ahead = InFlight()
        self._loads: list[threading.Thread] = []
        """Those beside the conversation: what one of them loads after its sidecar has gone belongs to nobody."""

    def serve(self, listener: socket.socket) -> None:
        """Until SIGTERM (SystemExit)."""
        try:
            self._serve(listener)
        finally:
            if self._streamed is not None:
                self._streamed.close()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    self._converse(connection)
                finally:
                    self._ahead.drain()
                    if self._streamed is not None:
                        self._streamed.unload_all()  # answers what is under way, also before a stop
                for load in self._loads:
                    load.join()
            self._loads.clear()
            self._residents.unload_all()
            self._slots.enter(Path())

    def _converse(self, connection: socket.socket) -> None:
        decoder: FrameDecoder[Ask] = FrameDecoder(Ask)
        sender = _Sender(connection)
        try:
            while data := connection.recv(_RECEIVE_BYTES):
                for ask in decoder.feed(data):
                    with self._stop:
                        self._take(ask, sender)
        except (BrokenFrameError, ConnectionError):
            return

    def _take(self, ask: Ask, sender: _Sender) -> None:
        if self._streamed is not None and isinstance(ask, Run):
            self._streamed.take(ask, sender.send_if_there, _refused)
        elif self._streamed is None and _overlaps(ask):
            self._loads = [load for load in self._loads if load.is_alive()]
            self._loads.append(threading.Thread(target=self._load_beside, args=(ask, sender), daemon=True))
            self._loads[-1].start()
        elif isinstance(ask, Run) and self._residents.overlaps(ask.model):
            self._begin(ask, sender)
        elif isinstance(ask, Unload) and self._streamed is None and ask.model not in self._ahead:
            sender.send(self.answer(ask))  # a load that is to overlap batches waits for this
        else:
            self._ahead.drain()
            sender.send(self.answer(ask))

    def _begin(self, ask: Run, sender: _Sender) -> None:
        """The batch is queued on the device; its answer is sent by the thread that waits for it."""
        try:
            end = self._begun(ask)
        except Exception as error:
            self._ahead.drain()  # answers keep the order of the asks
            sender.send(_refused(ask.call, error))
            return

        def answered() -> None:
            try:
                answer: Answer = end()
            except Exception as error:
                answer = _refused(ask.call, error)
            sender.send_if_there(answer)

        self._ahead.push(ask.model, answered)

    def _load_beside(self, ask: Load, sender: _Sender) -> None:
        with contextlib.suppress(ConnectionError):
            sender.send(self.answer(ask))

    def answer(self, ask: Ask) -> Answer:
        """The one answer to an ask; whatever the model raises becomes a refusal."""
        try:
            return self._answer(ask)
        except Exception as error:
            return _refused(ask.call, error)

    def _answer(self, ask: Ask) -> Answer:
        if isinstance(ask, Run):
            return self._run(ask)
        if isinstance(ask, Load):
            return self._load(ask)
        if isinstance(ask, Unload):
            if self._streamed is not None:
                return self._streamed.unload(ask)
            self._residents.unload(ask.model)
            return Unloaded(call=ask.call, memory_used_bytes=self._meter.used())
        return self._welcome(ask)

    def _welcome(self, ask: Hello) -> Welcome:
        self._slots.enter(Path(ask.slots))
        return Welcome(
            call=ask.call,
            pid=os.getpid(),
            device=self._kind,
            memory_bytes=self._meter.total_bytes,
            memory_used_bytes=self._meter.used() if self._streamed is None else self._streamed.used(),
        )

    def _load(self, ask: Load) -> Loaded:
        if self._streamed is not None:
            loaded = self._streamed.load(ask)
            self._on_loaded()
            return loaded
        resident = self._residents.load(ask.source)
        self._on_loaded()
        return Loaded(
            call=ask.call,
            inputs=list(resident.model.inputs),
            outputs=list(resident.model.outputs),
            memory_bytes=resident.memory_bytes,
            warmup_bytes=resident.warmup_bytes,
            seconds=resident.seconds,
            memory_used_bytes=self._meter.used(),
        )

    def _run(self, ask: Run) -> Ran:
        asked = time.perf_counter()
        slot, inputs = self._inputs(ask)
        began = time.perf_counter()
        outcome = self._residents.run(ask.model, inputs, ask.rows)
        return self._ran(ask, slot, outcome, began - asked)

    def _begun(self, ask: Run) -> Callable[[], Ran]:
        """As `_run`, in two steps."""
        asked = time.perf_counter()
        slot, inputs = self._inputs(ask)
        began = time.perf_counter()
        finish = self._residents.begin(ask.model, inputs, ask.rows)
        return lambda: self._ran(ask, slot, finish(), began - asked)

    def _inputs(self, ask: Run) -> tuple[Slot, dict[str, Any]]:
        slot = self._slots.get(ask.slot, ask.offset_free)
        return slot, {placed.name: read(slot.view, placed) for placed in ask.inputs}

    def _ran(self, ask: Run, slot: Slot, outcome: RunOutcome, input_seconds: float) -> Ran:
        ended = time.perf_counter()
        outputs = {name: np.asarray(array) for name, array in outcome.outputs.items()}
        slot.grow(sized(ask.offset_free, outputs))
        written = write(slot.view, ask.offset_free, outputs)
        return Ran(
            call=ask.call,
            outputs=written,
            device_seconds=outcome.device_seconds,
            batch_bytes=outcome.batch_bytes,
            slot_bytes=slot.size,
            memory_used_bytes=self._meter.used() if outcome.batch_bytes >= 0 else -1,
            row_errors=dict(outcome.row_errors),
            retained_bytes=outcome.retained_bytes,
            input_seconds=input_seconds,
            output_seconds=time.perf_counter() - ended,
        )


class _Sender:
    """Answers may come from two threads (a load beside batches)."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, answer: Answer) -> None:
        try:
            frame = encode(answer)
        except (msgspec.MsgspecError, OverflowError, TypeError) as error:
            frame = encode(LoadRefused(call=answer.call, kind="Failed", message=f"unspeakable answer: {error}"))
        with self._lock:
            self._connection.sendall(frame)

    def send_if_there(self, answer: Answer) -> None:
        """From a thread that nobody would tell that the sidecar has gone."""
        with contextlib.suppress(OSError):
            self.send(answer)


def serve(listener: socket.socket, loaded: int) -> None:
    """Entry point of the process that the supervisor forks; a byte on the pipe `loaded` tells of a loaded model."""

    def on_loaded() -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(loaded, b"+")

    settle_objects()
    Server(on_loaded).serve(listener)


def _refused(call: int, error: BaseException) -> LoadRefused:
    """What an error means to the sidecar."""
    if isinstance(error, OutOfDeviceMemoryError | MemoryError | SlotsFullError):
        return LoadRefused(call=call, kind="OutOfMemory", message=str(error))
    return LoadRefused(call=call, kind="Failed", message=_words(error))


def _overlaps(ask: Ask) -> bool:
    return isinstance(ask, Load) and ask.source.emulated is not None and ask.source.emulated.load_overlaps


def _streamed(kind: str, host: Host, meter: Meter, slots: SlotCache) -> StreamedModels | None:
    """Where the deployment asks for it; imported only there."""
    settings = from_environment()
    if settings is None:
        return None
    from batchwright_worker.runtime.layerwise_models import StreamedModels

    return StreamedModels.of(kind, settings, host, meter, slots)


def _words(error: BaseException) -> str:
    text = str(error)
    return (
        text if text and type(error).__module__.startswith("batchwright_worker") else f"{type(error).__name__}: {text}"
    )
