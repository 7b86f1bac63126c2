"""HTTP requests and responses, and what an application and a front end need of each other. No framing.

`RequestHead` and `Caller` are all that an application needs of a front end: another server than this package's own
(uvicorn, say) fits where it provides these two for each request and calls `App.handle`.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Protocol

import msgspec

from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.texts import presentable

Header = tuple[bytes, bytes]

JSON: Final = (b"content-type", b"application/json")
STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}
_LOG = logging.getLogger(__name__)


class ClientDisconnectedError(Exception):
    """The connection is lost; nobody waits for the response."""


class HttpError(Exception):
    """A response that is decided by HTTP alone."""

    def __init__(self, status: int, message: str, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(presentable(message))
        self.status = status
        self.headers = headers


@dataclass(slots=True)
class HttpResponse:
    """Status, headers (content-length is added) and body."""

    status: int
    body: bytes
    headers: list[Header] = field(default_factory=lambda: [JSON])


class ResponseHead:
    """Status and headers of a response whose body has `body_bytes`; `encoded` as HTTP/1.1 writes them, without the
    blank line. It may be sent with many bodies of that length."""

    __slots__ = ("body_bytes", "encoded", "headers", "status")

    def __init__(self, status: int, headers: list[Header], body_bytes: int) -> None:
        self.status = status
        self.headers = headers
        self.body_bytes = body_bytes
        lines = [STATUS_LINES[status], *(b"%b: %b\r\n" % header for header in headers)]
        lines.append(b"content-length: %d\r\n" % body_bytes)
        self.encoded = b"".join(lines)


class RequestHead(Protocol):
    """Request line and headers (by lower-case name, the last value of each); `body_bytes` negative where the length is
    not known in advance.

    `route` and `infer` are for the application to remember what such a request asks for. A front end may give the same
    head to every request that begins with the same bytes, so that this is found out once.
    """

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    body_bytes: int
    route: Any
    infer: Any


class Caller(Protocol):
    """Who waits for one response."""

    on_disconnect: Callable[[], object] | None
    """Called if the connection is lost before the response; forgotten with the response."""

    @property
    def disconnected(self) -> bool:
        """Is the connection lost? Responses go nowhere then."""

    def respond(self, response: HttpResponse) -> None:
        """The one response."""

    def send(self, head: ResponseHead, *body: bytes) -> None:
        """The one response, of a head that is encoded already and the parts of its body."""


class HttpRequest:
    """One whole request. `content` is its body; the memory is reused after the response."""

    __slots__ = ("caller", "content", "head")

    def __init__(self, head: RequestHead, content: memoryview, caller: Caller) -> None:
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
        """A copy of the body. Raises HttpError 413 for more than `limit_bytes`."""
        if len(self.content) > limit_bytes:
            raise too_large(limit_bytes)
        return bytes(self.content)

    def cancel_on_disconnect(self) -> None:
        """Cancel the current task if the client disconnects. Raises ClientDisconnectedError if it has already."""
        task = asyncio.current_task()
        assert task is not None
        if self.caller.disconnected:
            raise ClientDisconnectedError
        self.caller.on_disconnect = task.cancel


class App(Protocol):
    """An application: all that a front end needs of it."""

    def handle(self, request: HttpRequest) -> None:
        """Take a request, which gets one response by `request.caller`, at once or later. Never blocks."""

    def with_common_headers(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """The response with the headers that every response of this application has; for one that the front end gives
        itself."""


class TaskApp:
    """An application that answers each request in a task of its own; every way out is one response, or none where the
    client has disconnected."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def handle(self, request: HttpRequest) -> None:
        """See `App`."""
        task = asyncio.get_running_loop().create_task(self._run(request))
        self._running.add(task)  # the event loop keeps weak references only
        task.add_done_callback(self._running.discard)

    @abstractmethod
    async def respond_to(self, request: HttpRequest) -> HttpResponse:
        """The response. Raises InferenceError, HttpError, ClientDisconnectedError."""

    def with_common_headers(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """See `App`."""
        return response

    async def _run(self, request: HttpRequest) -> None:
        try:
            response = await self.respond_to(request)
        except (InferenceError, HttpError) as error:
            response = error_response(error)
        except ClientDisconnectedError:
            return
        except asyncio.CancelledError:
            if request.caller.disconnected:
                return
            raise
        except Exception:
            response = internal_error(request)
        request.caller.respond(self.with_common_headers(request, response))


def json_response(value: object, status: int = 200) -> HttpResponse:
    """A JSON body."""
    return HttpResponse(status, msgspec.json.encode(value))


def error_response(error: InferenceError | HttpError) -> HttpResponse:
    """`{"error": ...}`, with Retry-After where trying again makes sense."""
    if isinstance(error, HttpError):
        response = json_response({"error": str(error)}, error.status)
        response.headers += error.headers
        return response
    response = json_response({"error": str(error)}, error.http_status)
    if error.retry_after_header is not None:
        response.headers.append((b"retry-after", error.retry_after_header.encode()))
    return response


def internal_error(request: HttpRequest) -> HttpResponse:
    """500 for the exception that is being handled, a bug: its traceback goes to the log, not to the client."""
    _LOG.exception("%s %s failed", request.method, request.path)
    return json_response({"error": "internal error; the sidecar's log has the details"}, 500)


def too_large(limit_bytes: int) -> HttpError:
    """413."""
    return HttpError(413, f"the body is too large: wanted at most {limit_bytes} bytes; send fewer rows at a time")
