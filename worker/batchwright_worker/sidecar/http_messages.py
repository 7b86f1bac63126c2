"""Reading requests from and writing answers to an ASGI server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from batchwright_worker.sidecar.http_server import SCOPE_KEY, Caller
from batchwright_worker.sidecar.values import InferenceError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON: Final = (b"content-type", b"application/json")
_DISCARD_BYTES: Final = 8 << 20
"""How much of a refused body is read, so that its sender gets to see the answer."""


class CallerLeftError(Exception):
    """The connection was lost while the request was read; there is nobody to answer."""


class HttpError(Exception):
    """An answer that is decided by HTTP alone."""

    def __init__(self, status: int, message: str, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


@dataclass(slots=True)
class Answer:
    """Status, headers (content-length is added) and body."""

    status: int
    body: bytes
    headers: list[Header] = field(default_factory=lambda: [JSON])


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `headers` holds lower-case names, the last value of each."""

    scope: Scope
    receive: Receive
    headers: dict[bytes, bytes]

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def query(self) -> bytes:
        return bytes(self.scope["query_string"])

    @property
    def caller(self) -> Caller:
        """Tells when the connection is lost (a dummy where the server does not say)."""
        caller: Caller = self.scope.get(SCOPE_KEY) or Caller()
        return caller

    async def body(self, limit_bytes: int) -> bytes:
        """All of it. Raises HttpError 413 for more than `limit_bytes` (counted, whatever Content-Length says) and
        CallerLeftError."""
        declared = self.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit_bytes:
            await self._discard()
            raise _too_large(limit_bytes)
        chunks, total = [], 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise CallerLeftError
            chunk = message["body"]
            total += len(chunk)
            if total > limit_bytes:
                await self._discard()
                raise _too_large(limit_bytes)
            chunks.append(chunk)
            if not message["more_body"]:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _discard(self) -> None:
        left = _DISCARD_BYTES
        while left > 0:
            message = await self.receive()
            if message["type"] == "http.disconnect" or not message["more_body"]:
                return
            left -= len(message["body"])


def finished(request: Request) -> None:
    """Nobody needs to hear of a lost connection any more."""
    request.caller.on_gone = None
    request.caller.done = True


def request_of(scope: Scope, receive: Receive) -> Request:
    """The request of an ASGI http scope."""
    return Request(scope, receive, dict(scope["headers"]))


def json_answer(value: object, status: int = 200) -> Answer:
    """A JSON body."""
    return Answer(status, msgspec.json.encode(value))


def error_answer(error: InferenceError | HttpError) -> Answer:
    """`{"error": ...}`, with Retry-After where trying again makes sense."""
    if isinstance(error, HttpError):
        answer = json_answer({"error": str(error)}, error.status)
        answer.headers += error.headers
        return answer
    answer = json_answer({"error": str(error)}, error.http_status)
    if error.retry_after_header is not None:
        answer.headers.append((b"retry-after", error.retry_after_header.encode()))
    return answer


async def send_answer(send: Send, answer: Answer) -> None:
    """Writes it."""
    headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _too_large(limit_bytes: int) -> HttpError:
    return HttpError(
        413,
        f"the body is too large: wanted at most {limit_bytes} bytes; send fewer rows at a time",
        ((b"connection", b"close"),),
    )
