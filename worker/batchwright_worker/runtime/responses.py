"""Responses of a runtime to its sidecar: sent whole and one at a time, and what an error becomes on the wire."""

from __future__ import annotations

import contextlib
import socket
import threading

import msgspec

from batchwright_worker.backends.base import OutOfDeviceMemoryError
from batchwright_worker.ipc.frames import encode
from batchwright_worker.ipc.messages import RequestFailed, RuntimeResponse
from batchwright_worker.ipc.slots import SlotsFullError

__all__ = ["ResponseSender", "failed"]


class ResponseSender:
    """One connection's writing end. Thread-safe: batches in flight and overlapping loads end on other threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, response: RuntimeResponse) -> None:
        """Raises OSError if the sidecar is gone."""
        try:
            frame = encode(response)
        except (msgspec.MsgspecError, OverflowError, TypeError) as error:
            # The sidecar waits for this call: it gets a failure in the response's place.
            message = f"the response cannot be encoded: {error}"
            frame = encode(RequestFailed(call=response.call, kind="Failed", message=message))
        with self._lock:
            self._connection.sendall(frame)

    def send_if_connected(self, response: RuntimeResponse) -> None:
        """From a thread that has no use for the error: the server's own thread notices that the sidecar is gone."""
        with contextlib.suppress(OSError):
            self.send(response)


def failed(call: int, error: BaseException) -> RequestFailed:
    """The response to a request that ended in this error."""
    if isinstance(error, OutOfDeviceMemoryError | MemoryError | SlotsFullError):
        return RequestFailed(call=call, kind="OutOfMemory", message=str(error))
    return RequestFailed(call=call, kind="Failed", message=_message(error))


def _message(error: BaseException) -> str:
    """Our own errors explain themselves; a library's or a script's needs its type in front."""
    text = str(error)
    ours = type(error).__module__.startswith("batchwright_worker")
    return text if text and ours else f"{type(error).__name__}: {text}"
