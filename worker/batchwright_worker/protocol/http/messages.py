"""Requests and answers of the HTTP ports, and the frame in which handlers run."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol

import msgspec

from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.protocol.http.heads import Head

Header = tuple[bytes, bytes]

JSON: Final = (b"content-type", b"application/json")
STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}
_LOG = logging.getLogger(__name__)


class CallerLeftError(Exception):
    """The connection was lost; there is nobody to answer."""


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


class Caller(Protocol):
    """Who waits for one answer."""

    on_gone: Callable[[], object] | None
    """Called if the connection is lost before the answer; forgotten with the answer."""

    @property
    def gone(self) -> bool:
        """Is the connection lost? Answers go nowhere then."""

    def answer(self, answer: Answer) -> None:
        """The one answer."""

    def send(self, head: bytes, *body: bytes) -> None:
        """The one answer as it goes over the wire: status line and headers without the blank line, then the body."""


class Request:
    """One whole request. `content` is its body; the memory is reused after the answer."""

    __slots__ = ("caller", "content", "head")

    def __init__(self, head: Head, content: memoryview, caller: Caller) -> None:
        self.head = head
        self.content = content
        self.caller = caller

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def path(self) -> str:
        return self.head.path

    @property
    def query(self) -> bytes:
        return self.head.query

    @property
    def headers(self) -> dict[bytes, bytes]:
        """By lower-case name, the last value of each."""
        return self.head.headers

    def body(self, limit_bytes: int) -> bytes:
        """A copy of all of it. Raises HttpError 413 for more than `limit_bytes`."""
        if len(self.content) > limit_bytes:
            raise too_large(limit_bytes)
        return bytes(self.content)

    def cancel_when_gone(self) -> None:
        """Cancel the current task if the caller leaves. Raises CallerLeftError if it has left."""
        task = asyncio.current_task()
        assert task is not None
        if self.caller.gone:
            raise CallerLeftError
        self.caller.on_gone = task.cancel


class Handlers:
    """An application whose handlers run as tasks; every way out is one answer, or none where the caller has left."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def handle(self, request: Request) -> None:
        """Take a request; the answer goes to its caller."""
        task = asyncio.get_running_loop().create_task(self._answer(request))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    @abstractmethod
    async def answered(self, request: Request) -> Answer:
        """The answer. Raises InferenceError, HttpError, CallerLeftError."""

    def finish(self, request: Request, answer: Answer) -> Answer:
        """A last touch to every answer."""
        return answer

    async def _answer(self, request: Request) -> None:
        try:
            answer = await self.answered(request)
        except (InferenceError, HttpError) as error:
            answer = error_answer(error)
        except CallerLeftError:
            return
        except asyncio.CancelledError:
            if request.caller.gone:
                return
            raise
        except Exception:
            answer = self.broken(request)
        request.caller.answer(self.finish(request, answer))

    def broken(self, request: Request) -> Answer:
        """A bug, told in the log."""
        _LOG.exception("%s %s failed", request.method, request.path)
        return json_answer({"error": "internal error; the sidecar's log has the details"}, 500)


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


def too_large(limit_bytes: int) -> HttpError:
    """413."""
    return HttpError(413, f"the body is too large: wanted at most {limit_bytes} bytes; send fewer rows at a time")


def encoded_head(status: int, headers: list[Header], body_bytes: int) -> bytes:
    """Status line and headers, without the blank line."""
    lines = [STATUS_LINES[status], *(b"%b: %b\r\n" % header for header in headers)]
    lines.append(b"content-length: %d\r\n" % body_bytes)
    return b"".join(lines)
