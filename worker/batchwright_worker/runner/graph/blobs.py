"""Results of tasks as bytes: the runner passes them from process to process without looking inside.

A blob is a pickle of protocol 5 whose large arrays lie beside it, so that they are copied by the kernel only and the
runner knows what an item holds to the byte. Blobs come from the runner's own processes; nothing else is unpickled.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

OUT_OF_BAND_BYTES = 8192
_HEAD = struct.Struct("<Q")
Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Blob:
    """One value: its pickle, and the buffers that were left out of it."""

    head: bytes
    buffers: tuple[Buffer, ...] = ()

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return len(self.head) + sum(len(buffer) for buffer in self.buffers)


def pack(value: Any) -> Blob:
    """Pickle a value. Raises what pickle raises for what cannot be pickled."""
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES:
            return True
        buffers.append(raw)
        return False

    head = pickle.dumps(value, protocol=5, buffer_callback=keep)
    return Blob(head, tuple(buffers))


def unpack(blob: Blob) -> Any:
    """The value. Arrays share the blob's buffers."""
    return pickle.loads(blob.head, buffers=blob.buffers)  # noqa: S301 - written by our own processes


def send(connection: socket.socket, message: Any, blobs: Sequence[Blob]) -> None:
    """Write one frame: a small message and any number of blobs. Blocking."""
    sizes = [[len(buffer) for buffer in blob.buffers] for blob in blobs]
    meta = pickle.dumps((message, [blob.head for blob in blobs], sizes), protocol=5)
    connection.sendall(_HEAD.pack(len(meta)) + meta)
    for blob in blobs:
        for buffer in blob.buffers:
            connection.sendall(buffer)


def receive(connection: socket.socket) -> tuple[Any, list[Blob]]:
    """Read one frame. Blocking; raises EOFError when the other side is gone."""
    (length,) = _HEAD.unpack(_exactly(connection, _HEAD.size))
    message, heads, sizes = pickle.loads(_exactly(connection, length))  # noqa: S301 - written by our own processes
    blobs = [
        Blob(head, tuple(_exactly(connection, size) for size in lengths))
        for head, lengths in zip(heads, sizes, strict=True)
    ]
    return message, blobs


def _exactly(connection: socket.socket, size: int) -> bytearray:
    buffer = bytearray(size)
    view, filled = memoryview(buffer), 0
    while filled < size:
        count = connection.recv_into(view[filled:])
        if not count:
            raise EOFError("the other process is gone")
        filled += count
    return buffer
