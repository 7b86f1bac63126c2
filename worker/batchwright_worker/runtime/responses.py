"""Responses of a runtime to its sidecar: sent whole and one at a time, and what an error becomes on the wire."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Mapping
from typing import Final

from batchwright_worker.backends import scripts
from batchwright_worker.backends.base import LoadRefusedError, OutOfDeviceMemoryError
from batchwright_worker.inference.runtime import WrongOutputs
from batchwright_worker.ipc.frames import encode
from batchwright_worker.ipc.messages import RequestFailed, RuntimeResponse
from batchwright_worker.ipc.slots import SlotsFullError
from batchwright_worker.texts import presentable, text_of

__all__ = ["ResponseSender", "failed", "row_errors"]

_LOG = logging.getLogger(__name__)
_LOG_PAUSE_S: Final = 1.0
"""Whole texts are logged at most this often: a model may raise megabytes for every request."""


class ResponseSender:
    """One connection's writing end. Thread-safe: batches in flight and overlapping loads end on other threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, response: RuntimeResponse) -> None:
        """Raises OSError if the sidecar is gone."""
        try:
            frame = encode(response)
        except Exception as error:
            # The sidecar waits for this call: it gets a failure in the response's place. What a model has made is in
            # the response (names of outputs, say), and it raises whatever it likes.
            message = f"the response cannot be encoded: {text_of(error)}"
            frame = encode(RequestFailed(call=response.call, kind="Failed", message=presentable(message)))
        with self._lock:
            self._connection.sendall(frame)

    def send_if_connected(self, response: RuntimeResponse) -> None:
        """From a thread that has no use for the error: the server's own thread notices that the sidecar is gone."""
        with contextlib.suppress(OSError):
            self.send(response)


def failed(call: int, error: BaseException) -> RequestFailed:
    """The response to a request that ended in this error."""
    out_of_memory = isinstance(error, OutOfDeviceMemoryError | MemoryError | SlotsFullError)
    text = text_of(error) if out_of_memory else _message(error)
    kind = "OutOfMemory" if out_of_memory else "Failed"
    if isinstance(error, WrongOutputs | LoadRefusedError):
        kind = "WrongOutputs" if isinstance(error, WrongOutputs) else "Refused"
    return RequestFailed(call=call, kind=kind, message=_logged_if_cut(text))


def row_errors(errors: Mapping[int, str]) -> dict[int, str]:
    """The texts of rows that the model has named as bad, as they may be sent."""
    return {int(row): _logged_if_cut(str(text)) for row, text in errors.items()}


def _message(error: BaseException) -> str:
    """Our own errors explain themselves; a library's or a script's needs its type in front."""
    text = text_of(error)
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return f"{type(error).__name__}({text}) was raised by the model's own code; its process goes on"
    module = type(error).__module__
    ours = module.startswith("batchwright_worker.") and not module.startswith(f"{scripts.__name__}.")
    return text if text and ours else f"{type(error).__name__}: {text}".rstrip(": ")


class _WholeTexts:
    """Texts that are cut on their way to the sidecar, whole to the log."""

    def __init__(self) -> None:
        self._next = 0.0
        self._left_out = 0

    def log(self, text: str) -> None:
        now = time.monotonic()
        if now < self._next:
            self._left_out += 1
            return
        self._next = now + _LOG_PAUSE_S
        more = f" ({self._left_out} others were left out since the last one)" if self._left_out else ""
        _LOG.warning("an error's text of %d characters%s: %s", len(text), more, text)
        self._left_out = 0


_WHOLE_TEXTS = _WholeTexts()


def _logged_if_cut(text: str) -> str:
    shown = presentable(text)
    if shown != text:
        _WHOLE_TEXTS.log(text)
    return shown
