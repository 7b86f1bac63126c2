"""Unary gRPC calls as HTTP/2 frames that are made once: a caller costs a tenth of what grpc's own client costs, so that
one core can load a server on another.

Only for a bench: it knows the frames that a gRPC server sends here, and nothing of header compression. A call counts as
answered if a message came back before its trailers; an error has none.
"""

from __future__ import annotations

import asyncio
import struct
import time
from dataclasses import dataclass, field
from typing import Final

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW: Final = (1 << 31) - 1
_FRAME_BYTES: Final = 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def header_block(path: str) -> bytes:
    """The headers of a call, none of them compressed."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost", "te": "trailers"}
    block = b""
    for name, value in {**fields, "content-type": "application/grpc"}.items():
        block += b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
    return block


@dataclass
class Counts:
    """What the callers have seen: seconds of each answered call, calls without an answer."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0


class Callers(asyncio.Protocol):
    """`callers` on one connection, each with one call after the other."""

    def __init__(self, path: str, message: bytes, callers: int, counts: Counts) -> None:
        self._headers = header_block(path)
        self._message = b"\x00" + struct.pack(">I", len(message)) + message
        self._callers = callers
        self._counts = counts
        self._transport: asyncio.WriteTransport
        self._buffer = b""
        self._next = 1
        self._window = 65_535  # of the connection, in bytes that may still be sent
        self._waiting = 0
        self._began: dict[int, float] = {}
        self._answered: set[int] = set()
        self._started = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio.Protocol."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        settings = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, _WINDOW))
        update = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - 65_535))
        transport.write(_PREFACE + settings + update)

    def data_received(self, data: bytes) -> None:
        """asyncio.Protocol."""
        buffer, at = self._buffer + data, 0
        while len(buffer) - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at < 9 + size:
                break
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            self._frame(buffer[at + 3], buffer[at + 4], stream, buffer[at + 9 : at + 9 + size])
            at += 9 + size
        self._buffer = buffer[at:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA and payload:
            self._answered.add(stream)
        elif (kind == HEADERS and flags & _END_STREAM) or kind == RESET:
            self._ended(stream)
        elif kind == SETTINGS and not flags & _ACK:
            self._transport.write(frame(SETTINGS, _ACK, 0, b""))
            self._start()
        elif kind == PING and not flags & _ACK:
            self._transport.write(frame(PING, _ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
            waiting, self._waiting = self._waiting, 0
            for _ in range(waiting):
                self._call()
        elif kind == GOAWAY:
            raise SystemExit(f"the server ends the connection: {payload[8:]!r}")

    def _start(self) -> None:
        if not self._started:
            self._started = True
            for _ in range(self._callers):
                self._call()

    def _call(self) -> None:
        if self._window < len(self._message):
            self._waiting += 1
            return
        stream, self._next = self._next, self._next + 2
        self._window -= len(self._message)
        self._began[stream] = time.perf_counter()
        frames = [frame(HEADERS, _END_HEADERS, stream, self._headers)]
        for start in range(0, len(self._message), _FRAME_BYTES):
            last = start + _FRAME_BYTES >= len(self._message)
            part = self._message[start : start + _FRAME_BYTES]
            frames.append(frame(DATA, _END_STREAM if last else 0, stream, part))
        self._transport.write(b"".join(frames))

    def _ended(self, stream: int) -> None:
        took = time.perf_counter() - self._began.pop(stream)
        if stream in self._answered:
            self._answered.discard(stream)
            self._counts.seconds.append(took)
        else:
            self._counts.failed += 1
        self._call()


async def load(port: int, path: str, message: bytes, *, connections: int, callers: int, seconds: float) -> Counts:
    """Calls to a port of this machine for some seconds, after one to warm up."""
    counts = Counts()
    loop = asyncio.get_running_loop()
    transports = [
        (
            await loop.create_connection(
                lambda: Callers(path, message, callers // connections, counts), "127.0.0.1", port
            )
        )[0]
        for _ in range(connections)
    ]
    await asyncio.sleep(1)
    counts.seconds.clear()
    counts.failed = 0
    await asyncio.sleep(seconds)
    found = Counts(list(counts.seconds), counts.failed)
    for transport in transports:
        transport.abort()
    return found
