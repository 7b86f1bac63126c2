"""The server of a runtime process: accepts its sidecar and hands requests to the process's models, in their order."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from types import FrameType
from typing import Final

from batchwright_worker.ipc.frames import BrokenFrameError, FrameDecoder
from batchwright_worker.ipc.messages import Hello, RuntimeRequest, Welcome
from batchwright_worker.ipc.slots import SlotCache
from batchwright_worker.runtime.models import RuntimeModels
from batchwright_worker.runtime.responses import ResponseSender, failed

__all__ = ["Server"]

_RECEIVE_BYTES: Final = 1 << 18


class Server:
    """One sidecar at a time; each new one finds no models loaded. `device` and `total_bytes` are for its Welcome."""

    def __init__(self, models: RuntimeModels, slots: SlotCache, *, device: str, total_bytes: int) -> None:
        self._models = models
        self._slots = slots
        self._device = device
        self._total_bytes = total_bytes
        self._stop = _Stop()

    def serve(self, listener: socket.socket) -> None:
        """Until SIGTERM (SystemExit)."""
        try:
            while True:
                self._serve_one(listener)
        finally:
            self._models.close()

    def _serve_one(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                self._converse(connection)
            finally:
                # Before the connection closes, and before a stop too: batches in flight still get their responses.
                self._models.finish()
        self._models.unload_all()
        self._slots.enter(Path())

    def _converse(self, connection: socket.socket) -> None:
        decoder: FrameDecoder[RuntimeRequest] = FrameDecoder(RuntimeRequest)
        sender = ResponseSender(connection)
        try:
            while data := connection.recv(_RECEIVE_BYTES):
                for request in decoder.feed(data):
                    with self._stop:
                        self._take(request, sender)
        except (BrokenFrameError, ConnectionError):
            return

    def _take(self, request: RuntimeRequest, sender: ResponseSender) -> None:
        if isinstance(request, Hello):
            self._welcome(request, sender)
        else:
            self._models.take(request, sender)

    def _welcome(self, hello: Hello, sender: ResponseSender) -> None:
        self._models.finish()
        try:
            self._slots.enter(Path(hello.slots))
            welcome = Welcome(
                call=hello.call,
                pid=os.getpid(),
                device=self._device,
                memory_bytes=self._total_bytes,
                memory_used_bytes=self._models.used_bytes(),
            )
        except Exception as error:
            sender.send(failed(hello.call, error))
        else:
            sender.send(welcome)


class _Stop:
    """SIGTERM and SIGINT: at once while the process waits, else after the request that is being handled."""

    def __init__(self) -> None:
        self._asked = False
        self._busy = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def __enter__(self) -> None:
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False
        if self._asked:
            raise SystemExit(0)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if not self._busy:
            raise SystemExit(0)
