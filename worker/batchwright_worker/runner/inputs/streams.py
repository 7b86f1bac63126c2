"""The lines of a file, plain or compressed: what it is is told by its first bytes, not by its name."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.inputs.items import MAX_ITEM_BYTES
from batchwright_worker.runner.storage.locations import Location

COMPRESSED: Final = ("", ".gz", ".zst")
"""What may follow a suffix of a line format."""
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_BLOCK: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks; in UTF-8 there are no such bytes."""


class Line(NamedTuple):
    """One line: where it begins (bytes of the file when it is not compressed), its number from 1, its content without
    the end of the line; None for one that is longer than an item may be."""

    offset: int
    number: int
    content: bytes | None


def lines_of(
    location: Location, path: str, offset: int = 0, number: int = 1, *, keep_returns: bool = False
) -> Iterator[Line]:
    """The lines from an offset on, blank ones too, in bounded memory and linear time. `keep_returns`: the end of a line
    is a line feed alone. Raises StepFailed(InputInvalid) for UTF-16, and for a compressed file that is damaged."""
    with location.open(path) as raw:
        stream = _plain(raw)
        try:
            _skip(stream, offset, seekable=stream is raw)
            for line in _lines(stream, offset, number):
                content = line.content
                if not line.offset and content is not None and content.startswith(_UTF16):
                    raise StepFailed("InputInvalid", f"{path} is UTF-16: write it as UTF-8")
                yield line if keep_returns or content is None else line._replace(content=content.removesuffix(b"\r"))
        except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
            if stream is raw:
                raise
            raise StepFailed("InputInvalid", f"{path} is cut off or damaged ({error}): compress it again") from error


def _plain(raw: Any) -> Any:
    head = raw.read(4)
    raw.seek(0)
    if head.startswith(_GZIP):
        return gzip.GzipFile(fileobj=raw)
    if head.startswith(_ZSTD):
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    return raw


def is_compressed(location: Location, path: str) -> bool:
    """Can only the beginning of it be found at once?"""
    with location.open(path) as raw:
        return bool(raw.read(4).startswith((_GZIP, _ZSTD)))


def _skip(stream: Any, offset: int, *, seekable: bool) -> None:
    if seekable:
        stream.seek(offset)
        return
    while offset > 0:
        offset -= len(stream.read(min(offset, _BLOCK))) or offset


def _lines(stream: Any, offset: int, number: int) -> Iterator[Line]:
    pieces: list[bytes] = []
    size = 0
    while block := stream.read(_BLOCK):
        first, *more = block.split(b"\n")
        size += len(first)
        if size <= MAX_ITEM_BYTES:
            pieces.append(first)
        for content in more:  # each says that the line before it has ended
            yield _line(pieces, size, offset, number)
            offset += size + 1
            number += 1
            pieces, size = [content], len(content)
    if size:
        yield _line(pieces, size, offset, number)


def _line(pieces: list[bytes], size: int, offset: int, number: int) -> Line:
    if size > MAX_ITEM_BYTES:
        return Line(offset, number, None)
    content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if not offset:
        content = content.removeprefix(BYTE_ORDER_MARK)
    return Line(offset, number, content)
