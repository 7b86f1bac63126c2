"""Request heads: request line and headers, parsed by httptools, cached by their bytes.

A client that keeps its connection sends the same head again and again; what the parser makes of it is a pure function
of its bytes, so each is parsed once. A head that is not exactly one head for the parser (bare line feeds, two lengths,
both a length and chunks) is refused: parser and framing never disagree about where a request ends.
"""

from __future__ import annotations

from typing import Any, Final

import httptools

HEADS_KEPT: Final = 512
HEAD_KEPT_BYTES: Final = 4096
"""Bounds of the cache: clients decide what their heads are, so they must not decide what it holds."""
ONCE: Final = frozenset((b"content-encoding", b"inference-header-content-length"))
"""Headers that say how a body is read: of two of them a proxy may go by the other one."""
CHUNKED: Final = -1
"""`body_bytes` of a chunked request."""


class BadHeadError(Exception):
    """No HTTP request, or one that is not served whatever it asks for; `status` 400, 417, 501 or 505."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ParsedHead:
    """A `messages.RequestHead` of `size` bytes, and its framing: `body_bytes` is the length of the body, CHUNKED where
    chunks carry it; `keep_alive` says whether the connection may go on, `connection` is the header line that the
    response needs for that in this version of HTTP."""

    __slots__ = (
        "body_bytes",
        "connection",
        "expects_continue",
        "headers",
        "infer",
        "keep_alive",
        "method",
        "path",
        "query",
        "route",
        "size",
    )

    def __init__(self, raw: bytes) -> None:
        """Raises BadHeadError."""
        _check_version(raw)
        parsed, parser = _parsed(raw)
        url = _url(parsed.url)
        self.size = len(raw)
        self.headers = parsed.headers
        self.method: str = parser.get_method().decode("latin-1")
        self.path: str = (url.path or b"/").decode("latin-1")
        self.query: bytes = url.query or b""
        self.keep_alive = parsed.keep_alive
        version = parser.get_http_version()
        _check_host(version, parsed.hosts)
        if parsed.twice:
            raise BadHeadError(f"the header {parsed.twice.decode()} is there twice: wanted once")
        self.connection = _connection(self.keep_alive, version)
        self.expects_continue = version != "1.0" and _expects_continue(parsed.headers)
        self.body_bytes = _body_bytes(parsed.headers)
        self.route: Any = None
        self.infer: Any = None


class HeadCache:
    """The heads that one server has seen, a bounded number of them."""

    def __init__(self) -> None:
        self._known: dict[bytes, ParsedHead] = {}

    def of(self, raw: bytes) -> ParsedHead:
        """The head of these bytes, blank line included. Raises BadHeadError."""
        known = self._known.get(raw)
        if known is not None:
            return known
        head = ParsedHead(raw)
        if len(raw) <= HEAD_KEPT_BYTES:
            if len(self._known) >= HEADS_KEPT:
                self._known.clear()
            self._known[raw] = head
        return head


class _HeadCallbacks:
    """What httptools calls while it parses one head: a value may come in several calls, the end once."""

    __slots__ = ("complete", "headers", "hosts", "keep_alive", "parser", "twice", "url")

    def __init__(self) -> None:
        self.parser: Any = httptools.HttpRequestParser(self)
        self.keep_alive = False
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.hosts = 0
        self.twice = b""
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.hosts += name == b"host"
        if name in ONCE and name in self.headers:
            self.twice = name
        self.headers[name] = value.strip()

    def on_headers_complete(self) -> None:
        self.complete = True
        # Asked here: once a message without a body has ended, the parser answers otherwise.
        self.keep_alive = self.parser.should_keep_alive()


def _parsed(raw: bytes) -> tuple[_HeadCallbacks, Any]:
    """What the parser made of a head, and the parser. Raises BadHeadError."""
    callbacks = _HeadCallbacks()
    parser = callbacks.parser
    try:
        # The last byte by itself must complete the head: then it ends for the parser where it ends for our framing.
        parser.feed_data(raw[:-1])
        early = callbacks.complete
        parser.feed_data(raw[-1:])
    except httptools.HttpParserUpgrade:
        early = False  # answered as a plain request, as the protocol allows
    except httptools.HttpParserError as error:
        raise BadHeadError(f"this is no HTTP/1.1 request: {error}") from error
    callbacks.parser = None  # parser and callbacks refer to each other: no work for the garbage collector
    if early or not callbacks.complete:
        raise BadHeadError("this is no HTTP/1.1 request: its head does not end with its first blank line")
    return callbacks, parser


def _check_version(raw: bytes) -> None:
    """The parser takes requests of versions 0.9 and 2.0 too, as if they were of 1.x."""
    line = raw[: raw.find(b"\r\n")]
    version = line[line.rfind(b" ") + 1 :]
    if not version.startswith(b"HTTP/"):
        raise BadHeadError("this is no HTTP/1.1 request: its first line has no version")
    if not version.startswith(b"HTTP/1."):
        raise BadHeadError(f"{version[:16].decode('latin-1')} is not spoken on this port", 505)


def _check_host(version: str, hosts: int) -> None:
    """RFC 9112, 3.2."""
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise BadHeadError(f"the request has {hosts} Host headers: wanted one")


def _expects_continue(headers: dict[bytes, bytes]) -> bool:
    expected = headers.get(b"expect", b"").lower()
    if expected not in (b"", b"100-continue"):
        raise BadHeadError(f"expectation {expected.decode('latin-1')!r} is not met here", 417)
    return bool(expected)


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
