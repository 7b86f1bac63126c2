"""Chunked bodies, strictly: hexadecimal sizes, CR LF everywhere, extensions and trailers read over and forgotten. Pure.

httptools decodes them too, but does not report where in its input a message ended, which pipelined requests need.
"""

from __future__ import annotations

from typing import Final

LINE_MOST_BYTES: Final = 4096
TRAILERS_MOST_BYTES: Final = 16_384
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class BadChunkError(Exception):
    """The body is not chunked as it should be."""


class ChunkTooLargeError(Exception):
    """More than the limit was sent."""


class Chunks:
    """`feed` it what has arrived; `body` grows up to `limit_bytes`; `done` after the last chunk and its trailers."""

    __slots__ = ("_data_left", "_limit", "_line", "_state", "_trailers", "body", "done")

    def __init__(self, limit_bytes: int) -> None:
        self.body = bytearray()
        self.done = False
        self._limit = limit_bytes
        self._line = bytearray()
        self._data_left = 0
        self._trailers = 0
        self._state = "size"

    def feed(self, data: memoryview) -> int:
        """Bytes used; all of them unless `done`. Raises BadChunkError, ChunkTooLargeError."""
        at = 0
        while at < len(data) and not self.done:
            at += self._take_data(data[at:]) if self._state == "data" else self._take_line(data[at:])
        return at

    def _take_data(self, data: memoryview) -> int:
        taken = min(len(data), self._data_left)
        self.body += data[:taken]
        self._data_left -= taken
        if not self._data_left:
            self._state = "end"
        return taken

    def _take_line(self, data: memoryview) -> int:
        """Up to and with the next line feed."""
        piece = bytes(data[: LINE_MOST_BYTES + 1])
        end = piece.find(b"\n") + 1
        self._line += piece[:end] if end else piece
        if len(self._line) > LINE_MOST_BYTES:
            raise BadChunkError(f"a line of more than {LINE_MOST_BYTES} bytes")
        if not end:
            return len(piece)
        if not self._line.endswith(b"\r\n") or b"\r" in self._line[:-2]:
            raise BadChunkError("a line that does not end with CR LF")
        line = bytes(self._line[:-2])
        self._line.clear()
        self._took(line)
        return end

    def _took(self, line: bytes) -> None:
        if self._state == "end":
            if line:
                raise BadChunkError("bytes behind a chunk's data")
            self._state = "size"
        elif self._state == "size":
            self._begin(line)
        else:
            self._trailers += len(line) + 2
            self.done = not line
            if self._trailers > TRAILERS_MOST_BYTES:
                raise BadChunkError(f"trailers of more than {TRAILERS_MOST_BYTES} bytes")

    def _begin(self, line: bytes) -> None:
        digits = line.split(b";", 1)[0].rstrip(b" \t") if b";" in line else line
        if not 0 < len(digits) <= 16 or not _HEX.issuperset(digits):
            raise BadChunkError("a chunk's size is no hexadecimal number")
        self._data_left = int(digits, 16)
        if len(self.body) + self._data_left > self._limit:
            raise ChunkTooLargeError
        self._state = "data" if self._data_left else "trailers"
