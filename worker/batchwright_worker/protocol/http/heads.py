"""Request heads: request line and headers, parsed by httptools, remembered by their bytes.

A client that keeps its connection sends the same head again and again; what the parser says of it is a pure function of
its bytes, so it is asked once. A head that is not exactly one head for the parser (bare line feeds, two lengths, both a
length and chunks) is refused: parser and framing never disagree about where a request ends.
"""

from __future__ import annotations

from typing import Any, Final

import httptools

KEPT_HEADS: Final = 512
KEPT_HEAD_BYTES: Final = 4096
CHUNKED: Final = -1


class BadHeadError(Exception):
    """No HTTP request, or one whose framing is not served; `status` 400 or 501."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Head:
    """One head of `size` bytes. `headers` by lower-case name, the last value of each; `body_bytes` is the length of the
    body, CHUNKED where chunks tell it; `connection` is the header line that the answer needs for this version and
    wish. `plan` and `infer` are the application's own memory of what such a request asks for."""

    __slots__ = (
        "body_bytes",
        "connection",
        "expects_continue",
        "headers",
        "infer",
        "keep_alive",
        "method",
        "path",
        "plan",
        "query",
        "size",
    )

    def __init__(self, raw: bytes) -> None:
        """Raises BadHeadError."""
        events, parser = _parsed(raw)
        url = _url(events.url)
        self.size = len(raw)
        self.headers = events.headers
        self.method: str = parser.get_method().decode("latin-1")
        self.path: str = (url.path or b"/").decode("latin-1")
        self.query: bytes = url.query or b""
        self.keep_alive = events.keep_alive
        version = parser.get_http_version()
        self.connection = _connection(self.keep_alive, version)
        self.expects_continue = events.headers.get(b"expect", b"").lower() == b"100-continue" and version != "1.0"
        self.body_bytes = _body_bytes(events.headers)
        self.plan: Any = None
        self.infer: Any = None


class Heads:
    """The heads that one port has seen, a bounded number of them."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def of(self, raw: bytes) -> Head:
        """The head of these bytes, blank line included. Raises BadHeadError."""
        known = self._known.get(raw)
        if known is not None:
            return known
        head = Head(raw)
        if len(raw) <= KEPT_HEAD_BYTES:
            if len(self._known) >= KEPT_HEADS:
                self._known.clear()
            self._known[raw] = head
        return head


class _Events:
    """What httptools calls back."""

    __slots__ = ("complete", "headers", "keep_alive", "parser", "url")

    def __init__(self) -> None:
        self.parser: Any = httptools.HttpRequestParser(self)
        self.keep_alive = False
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value.strip()

    def on_headers_complete(self) -> None:
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()


def _parsed(raw: bytes) -> tuple[_Events, Any]:
    """The last byte alone must complete the head: then it ends where we say that it ends."""
    events = _Events()
    parser = events.parser
    try:
        parser.feed_data(raw[:-1])
        early = events.complete
        parser.feed_data(raw[-1:])
    except httptools.HttpParserUpgrade:
        early = False  # answered as a plain request, as the protocol allows
    except httptools.HttpParserError as error:
        raise BadHeadError(f"this is no HTTP/1.1 request: {error}") from error
    events.parser = None
    if early or not events.complete:
        raise BadHeadError("this is no HTTP/1.1 request: its head does not end with its first blank line")
    return events, parser


def _url(raw: bytes) -> Any:
    try:
        return httptools.parse_url(raw)
    except httptools.HttpParserInvalidURLError as error:
        raise BadHeadError(f"the request's target is wrong: {error}") from error


def _connection(keep_alive: bool, version: str) -> bytes:
    if not keep_alive:
        return b"connection: close\r\n"
    return b"connection: keep-alive\r\n" if version == "1.0" else b""


def _body_bytes(headers: dict[bytes, bytes]) -> int:
    coding = headers.get(b"transfer-encoding")
    if coding is None:
        return int(headers.get(b"content-length", b"0"))
    if coding.lower() != b"chunked":
        raise BadHeadError(
            f"transfer-encoding {coding.decode('latin-1')!r} is not read here; send chunked or Content-Length", 501
        )
    return CHUNKED
