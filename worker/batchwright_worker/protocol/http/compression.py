"""Compressed bodies, both ways: gzip and deflate of a request, and of a response whose client asks for one of them.

A body is decompressed piece by piece in threads; each piece is counted before the next one is made, so that a few bytes
that stand for gigabytes are refused at the limit.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from batchwright_worker.protocol.http.messages import HttpError, too_large

if TYPE_CHECKING:
    from zlib import _Decompress

STEP_BYTES: Final = 1 << 20
_INPUT_BYTES: Final = 1 << 18
_GZIP: Final = 16 + zlib.MAX_WBITS
_WINDOW_BITS: Final = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": zlib.MAX_WBITS}
_LEVEL: Final = 1
"""Tensors hardly shrink, whatever the level: the cheapest."""


class Codings(NamedTuple):
    """How a request's body is compressed, and how its response is to be; empty where plain."""

    body: bytes
    response: bytes


def codings_of(headers: dict[bytes, bytes]) -> Codings | None:
    """None where both are plain. Raises HttpError 415.

    A response is compressed where Accept-Encoding names one coding alone, as clients write that want it; several are
    what every HTTP library sends unasked, and compressing floats for it would cost far more than it saves.
    """
    body = headers.get(b"content-encoding", b"").lower() or b"identity"
    if body != b"identity" and body not in _WINDOW_BITS:
        raise HttpError(
            415,
            f"Content-Encoding {body.decode('latin-1')!r} is not read here; send gzip, deflate or a plain body",
            ((b"accept-encoding", b"gzip, deflate"),),
        )
    response = headers.get(b"accept-encoding", b"").lower()
    codings = Codings(b"" if body == b"identity" else body, response if response in (b"gzip", b"deflate") else b"")
    return codings if any(codings) else None


async def decompressed(body: memoryview, coding: bytes, limit_bytes: int, hold: Callable[[int], None]) -> bytearray:
    """The plain body. `hold` is called with the size of each piece and may raise. Raises HttpError 413 and 400."""
    loop, plain = asyncio.get_running_loop(), bytearray()
    decompressor = _decompressor(body, coding)
    try:
        for at in range(0, len(body), _INPUT_BYTES):
            data: bytes | memoryview = body[at : at + _INPUT_BYTES]
            while len(data) and not decompressor.eof:
                piece = await loop.run_in_executor(None, decompressor.decompress, data, STEP_BYTES)
                if len(plain) + len(piece) > limit_bytes:
                    raise too_large(limit_bytes)
                hold(len(piece))
                plain += piece
                data = decompressor.unconsumed_tail
        complete = decompressor.eof and not decompressor.unused_data and at + _INPUT_BYTES >= len(body)
    except zlib.error as error:
        raise HttpError(400, f"the body is no {coding.decode()} data: {error}; compress it again") from error
    if not complete:
        raise HttpError(400, f"the {coding.decode()} data of the body end early or late; compress it again")
    return plain


def _decompressor(body: memoryview, coding: bytes) -> _Decompress:
    bits = _WINDOW_BITS[coding]
    # Some senders leave out the two bytes of zlib's header, which the coding `deflate` should have (RFC 9110, 8.4.1.2).
    if coding == b"deflate" and len(body) > 1 and (body[0] & 15 != 8 or (body[0] << 8 | body[1]) % 31):
        bits = -zlib.MAX_WBITS
    return zlib.decompressobj(bits)


async def compressed(body: bytes, coding: bytes) -> bytes:
    """The body in this coding."""
    return await asyncio.get_running_loop().run_in_executor(None, _compress, body, _WINDOW_BITS[coding])


def _compress(body: bytes, bits: int) -> bytes:
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, bits)
    return compressor.compress(body) + compressor.flush()
