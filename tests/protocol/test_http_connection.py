"""One connection of the own HTTP server, over real sockets: sizes, orders, wishes and ends of requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright_worker.protocol.http.messages import HttpRequest, HttpResponse
from batchwright_worker.protocol.http.server import HttpServer, bound
from batchwright_worker.protocol.limits import Limits

LIMITS = Limits(header_seconds=30, body_seconds=30, body_bytes=1 << 20)


class Echo:
    """Answers with the body, at once or when told to."""

    def __init__(self) -> None:
        self.held: list[HttpRequest] | None = None
        self.left = asyncio.Event()
        self.came = asyncio.Event()

    def handle(self, request: HttpRequest) -> None:
        if self.held is None:
            self.answer(request)
            return
        request.caller.on_disconnect = self.left.set
        self.held.append(request)
        self.came.set()

    def answer(self, request: HttpRequest) -> None:
        request.caller.respond(HttpResponse(200, request.path.encode() + b" " + bytes(request.content)))

    def with_common_headers(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        return response


class Client:
    """Raw bytes out, answers in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = b"" if head_only else await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, body

    async def ended(self) -> bool:
        return await self.reader.read(1) == b""


Connect = Callable[[], contextlib.AbstractAsyncContextManager[Client]]


@contextlib.asynccontextmanager
async def serving(limits: Limits = LIMITS) -> AsyncIterator[tuple[Echo, HttpServer, Connect]]:
    """The application, the server, and what connects to it."""
    app = Echo()
    server, listener = HttpServer(app, limits), bound("127.0.0.1", 0)
    port = listener.getsockname()[1]
    task = server.start(listener)

    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        yield Client(reader, writer)
        writer.close()

    yield app, server, connect
    server.stop()
    await task


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_a_body_larger_than_the_buffer_arrives_whole() -> None:
    body = bytes(range(256)) * 3000
    async with serving() as (_, _, connect), connect() as client:
        for _ in range(2):
            client.send(post("/a", body))
            assert (await client.response())[2] == b"/a " + body


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 150_000), min_size=1, max_size=5),
    st.lists(st.integers(1, 100_000), min_size=1, max_size=6),
    st.booleans(),
)
def test_requests_sent_ahead_are_answered_in_order(sizes: list[int], pieces: list[int], chunked: bool) -> None:
    """However the bytes are cut, and whatever fits into the buffer."""

    async def scenario() -> None:
        bodies = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
        stream = b"".join(sent(f"/{number}", body, chunked) for number, body in enumerate(bodies))
        async with serving() as (_, _, connect), connect() as client:
            writing = asyncio.create_task(trickle(client, stream, pieces))
            for number, body in enumerate(bodies):
                assert (await client.response())[2] == b"/%d " % number + body
            await writing

    run(scenario())


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


def sent(path: str, body: bytes, chunked: bool) -> bytes:
    if not chunked:
        return post(path, body)
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunk + b"0\r\n\r\n"


async def trickle(client: Client, stream: bytes, pieces: list[int]) -> None:
    at = 0
    for piece in pieces:
        client.send(stream[at : at + piece])
        await client.writer.drain()
        at += piece
    client.send(stream[at:])
    await client.writer.drain()


async def test_heads_that_come_in_pieces_are_found_again() -> None:
    """The same head twice, its second time in two pieces; then a shorter one."""
    async with serving() as (_, _, connect), connect() as client:
        request = post("/first", b"x", "X-Long: " + "y" * 200)
        client.send(request)
        assert (await client.response())[2] == b"/first x"
        client.send(request[:180])
        await asyncio.sleep(0.02)  # or the server would see both pieces as one
        client.send(request[180:])
        assert (await client.response())[2] == b"/first x"
        client.send(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await asyncio.wait_for(client.response(), 60))[2] == b"/b "


async def test_a_client_that_asks_may_go_on() -> None:
    async with serving() as (_, _, connect), connect() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.response())[0] == 100
        client.send(b"abc")
        assert (await client.response())[2] == b"/a abc"


async def test_a_body_too_large_is_refused_before_it_comes() -> None:
    async with serving() as (_, _, connect), connect() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\nExpect: 100-continue\r\n\r\n")
        status, headers, _ = await client.response()
        assert (status, headers["connection"]) == (413, "close")


@pytest.mark.parametrize(
    ("request_line", "connection", "ends"),
    [
        (b"GET / HTTP/1.0\r\n", "close", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", "keep-alive", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", "close", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", None, False),
    ],
)
async def test_the_connection_ends_as_asked(request_line: bytes, connection: str | None, ends: bool) -> None:
    async with serving() as (_, _, connect), connect() as client:
        client.send(request_line + b"\r\n")
        assert (await client.response())[1].get("connection") == connection
        if ends:
            assert await client.ended()
        else:
            client.send(b"GET /again HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response())[2] == b"/again "


async def test_head_gets_no_body() -> None:
    async with serving() as (_, _, connect), connect() as client:
        client.send(b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.response(head_only=True))[1]["content-length"] == "3"
        assert (await client.response())[2] == b"/b "


async def test_the_application_hears_of_a_caller_that_left() -> None:
    async with serving() as (app, _, connect):
        app.held = []
        async with connect() as client:
            client.send(post("/a", b"x"))
            await app.came.wait()
        await app.left.wait()
        assert app.held[0].caller.disconnected
        app.answer(app.held[0])


async def test_stopping_lets_the_answer_out_that_is_due() -> None:
    async with serving() as (app, server, connect), connect() as idle, connect() as client:
        app.held = []
        client.send(post("/a", b"x"))
        await app.came.wait()
        server.stop()
        assert await idle.ended()
        app.answer(app.held[0])
        status, headers, body = await client.response()
        assert (status, headers["connection"], body) == (200, "close", b"/a x")
        assert await client.ended()


async def test_a_client_that_does_not_read_is_hung_up_on() -> None:
    """Answers wait in the kernel's buffers, then here; then no more requests are taken, and at last it is enough."""
    limits = Limits(header_seconds=60, body_seconds=1.0, body_bytes=1 << 23)
    async with serving(limits) as (app, _, connect), connect() as client:
        app.held = []
        body = b"x" * (1 << 22)
        client.send(post("/a", body) * 3)
        await app.came.wait()
        held = app.held
        app.held = None
        app.answer(held[0])
        while not held[0].caller.disconnected:  # noqa: ASYNC110 - the kernel's buffers fill in their own time
            await asyncio.sleep(0.02)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await answers(client, 3)


async def answers(client: Client, count: int) -> None:
    for _ in range(count):
        await client.response()
