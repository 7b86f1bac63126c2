"""Length-prefixed msgpack frames: 4 bytes little-endian length, then the message."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

import msgspec

FRAME_MAX_BYTES: Final = 16 << 20
"""Tensors travel in shared memory, so a longer frame is a broken peer."""

_LENGTH: Final = struct.Struct("<I")
_ENCODER: Final = msgspec.msgpack.Encoder()
T = TypeVar("T")


class BrokenFrameError(Exception):
    """The peer does not speak this protocol; the connection must be closed."""


def encode(message: msgspec.Struct) -> bytes:
    """The frame of a message."""
    body = _ENCODER.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameDecoder(Generic[T]):
    """Cuts a byte stream into messages of one (tagged union) type."""

    def __init__(self, message_type: object) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(message_type)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """Messages completed by `data`. Raises BrokenFrameError for an over-long or unreadable frame."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > FRAME_MAX_BYTES:
                raise BrokenFrameError(f"a frame of {length} bytes is longer than {FRAME_MAX_BYTES}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[_LENGTH.size : end])
            del self._buffer[:end]
            yield self._decode(body)

    def _decode(self, body: bytes) -> T:
        try:
            return self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise BrokenFrameError(f"unreadable message: {error}") from error
