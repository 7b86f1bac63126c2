"""Small JSON bodies of calls that are no infer requests."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from batchwright_worker.protocol.http.messages import HttpError, HttpRequest
from batchwright_worker.protocol.limits import Limits

T = TypeVar("T")


def plain_body(request: HttpRequest, limits: Limits) -> bytes:
    """The body as it was sent. Raises HttpError."""
    if request.headers.get(b"content-encoding", b"").lower() not in (b"", b"identity"):
        raise HttpError(415, "a compressed body is read by infer alone; send it without Content-Encoding")
    return request.body(limits.json_bytes)


def decoded(body: bytes, kind: type[T], example: str) -> T:
    """A body that may be empty. Raises HttpError."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(400, f"the request is not the JSON object that is wanted: {error}; send {example}") from error
