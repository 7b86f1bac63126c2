"""Bytes to requests without a socket: however they are cut, wherever a request ends, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.protocol.http.heads import HeadCache
from batchwright_worker.protocol.http.messages import HttpError, HttpRequest, HttpResponse, ResponseHead
from batchwright_worker.protocol.http.receive_buffers import BUFFER_BYTES, ReceiveBuffers
from batchwright_worker.protocol.http.request_reader import END, Missing, RequestReader
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.request_memory import RequestMemory

LIMITS = Limits(header_bytes=512, body_bytes=1 << 20)
Seen = tuple[str, str, bytes]


class Nobody:
    """The caller of requests that nobody answers."""

    on_disconnect = None
    disconnected = False

    def respond(self, response: HttpResponse) -> None:
        raise AssertionError("the reader responds to nothing")

    def send(self, head: ResponseHead, *body: bytes) -> None:
        raise AssertionError("the reader sends nothing")


def reader(limits: Limits = LIMITS) -> RequestReader:
    return RequestReader(HeadCache(), limits, ReceiveBuffers(RequestMemory(), limits.header_bytes + len(END)))


def put(reading: RequestReader, data: bytes) -> int:
    """As much of it as there is room for."""
    room = reading.buffer()
    count = min(len(room), len(data))
    room[:count] = data[:count]
    reading.received(count)
    return count


def taken(reading: RequestReader) -> tuple[list[Seen], Missing]:
    """The requests that are whole, and what the next one lacks."""
    seen: list[Seen] = []
    while isinstance(request := reading.next_request(Nobody()), HttpRequest):
        seen.append((request.method, request.path, bytes(request.content)))
        reading.release()
    return seen, request


def feed(reading: RequestReader, data: bytes) -> tuple[list[Seen], Missing]:
    """As a connection does whose requests are answered at once."""
    seen: list[Seen] = []
    missing = Missing.REQUEST
    while data:
        count = put(reading, data)
        assert count
        data = data[count:]
        whole, missing = taken(reading)
        seen += whole
    return seen, missing


def read(pieces: Iterable[bytes]) -> list[Seen]:
    """All requests of a stream that arrives in these pieces."""
    reading = reader()
    return [seen for piece in pieces for seen in feed(reading, piece)[0]]


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(path: str, *chunks: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


STREAM = b"".join(
    (
        post("/a", b"hello"),
        b"GET /b?c=1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\r\n",  # blank lines between requests are read over
        chunked("/d", b"he", b"llo"),
        post("/a", b"world"),
        post("/a", b"again"),
    )
)
REQUESTS = [
    ("POST", "/a", b"hello"),
    ("GET", "/b", b""),
    ("POST", "/d", b"hello"),
    ("POST", "/a", b"world"),
    ("POST", "/a", b"again"),
]


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_it_does_not_matter_where_a_stream_is_cut(cut: int) -> None:
    assert read([STREAM[:cut], STREAM[cut:]]) == REQUESTS


def test_one_byte_at_a_time_gives_the_same_requests() -> None:
    assert read(STREAM[at : at + 1] for at in range(len(STREAM))) == REQUESTS


@given(st.lists(st.integers(0, 100_000), max_size=5), st.lists(st.integers(0, 300_000), max_size=6), st.booleans())
def test_bodies_of_any_size_arrive_whole(sizes: list[int], cuts: list[int], in_chunks: bool) -> None:
    bodies = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    stream = b"".join(chunked("/", body) if in_chunks and body else post("/", body) for body in bodies)
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    assert read(stream[a:b] for a, b in itertools.pairwise(places)) == [("POST", "/", body) for body in bodies]


def test_what_is_missing_is_said() -> None:
    reading = reader()
    assert taken(reading) == ([], Missing.REQUEST)
    assert feed(reading, b"POST / HTTP/1.1\r\nHost: a\r\nContent-") == ([], Missing.HEAD)
    assert feed(reading, b"Length: 3\r\n\r\n") == ([], Missing.BODY)
    assert feed(reading, b"abc") == ([("POST", "/", b"abc")], Missing.REQUEST)


def test_a_sender_that_expects_100_continue_waits_only_before_its_body() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    reading = reader()
    assert feed(reading, head) == ([], Missing.CONTINUE)
    assert feed(reading, b"a") == ([], Missing.BODY)
    assert feed(reading, b"bc" + head + b"abc") == ([("POST", "/", b"abc")] * 2, Missing.REQUEST)


def test_a_content_is_not_overwritten_before_its_release() -> None:
    """Of a body near the end of the buffer, while others arrive behind it."""
    reading, body = reader(), b"x" * (BUFFER_BYTES - 4096)
    put(reading, post("/", body) + post("/next", b"y" * 2000))
    request = reading.next_request(Nobody())
    assert isinstance(request, HttpRequest)
    put(reading, post("/third", b"z" * 1000))
    assert bytes(request.content) == body
    assert not reading.release()
    assert [path for _, path, _ in taken(reading)[0]] == ["/next", "/third"]


def test_a_full_buffer_has_room_again_after_the_requests_in_it() -> None:
    reading, one = reader(), post("/", b"x" * 100)
    stream = one * (2 * BUFFER_BYTES // len(one))
    assert put(reading, stream) == BUFFER_BYTES
    assert reading.is_full
    assert put(reading, stream) == 0
    seen, _ = taken(reading)
    assert not reading.is_full
    seen += feed(reading, stream[BUFFER_BYTES:])[0]
    assert seen == [("POST", "/", b"x" * 100)] * (len(stream) // len(one))


def test_a_large_body_lies_in_memory_of_its_own() -> None:
    """So that what follows it in the buffer may be written while it is read."""
    reading, body = reader(), bytes(range(256)) * 1024
    assert feed(reading, post("/large", body)[:-10]) == ([], Missing.BODY)
    assert len(reading.buffer()) == 10
    put(reading, body[-10:])
    request = reading.next_request(Nobody())
    assert isinstance(request, HttpRequest)
    put(reading, post("/small", b"x"))
    assert bytes(request.content) == body
    assert not reading.release()
    assert taken(reading) == ([("POST", "/small", b"x")], Missing.REQUEST)


def test_what_is_cleared_is_forgotten() -> None:
    reading = reader()
    assert feed(reading, post("/", b"x" * (1 << 18))[:-1]) == ([], Missing.BODY)
    reading.clear()
    assert reading.head is None
    assert len(reading.buffer()) == BUFFER_BYTES
    assert feed(reading, post("/other", b"y"))[0] == [("POST", "/other", b"y")]


HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
REFUSED = [
    (413, "at most 1048576 bytes", HEAD + b"Content-Length: 1048577\r\n\r\n"),
    (413, "at most 1048576 bytes", HEAD + b"Transfer-Encoding: chunked\r\n\r\n100001\r\n"),
    (431, "exceed 512 bytes", HEAD + b"X-Long: " + b"a" * 600),
    (431, "exceed 512 bytes", HEAD + b"X-Long: " + b"a" * 600 + b"\r\n\r\n"),
    (400, "HTTP/1.1", HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
    (400, "HTTP/1.1", HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, "HTTP/1.1", b"\x16\x03\x01\x02\x00\x01\r\n\r\n"),
    (501, "gzip", HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    (400, "hexadecimal", HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\n"),
    (400, "CR LF", HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\nhello"),
]


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize(("status", "words", "sent"), REFUSED)
def test_what_is_no_request_is_refused_behind_one_that_is(status: int, words: str, sent: bytes, step: int) -> None:
    """In one piece and byte by byte: the same request first, and then the same error."""
    reading, good, seen = reader(), post("/good", b"x"), []
    for at in range(0, len(good), step):
        seen += feed(reading, good[at : at + step])[0]
    assert seen == [("POST", "/good", b"x")]
    error = refusal(reading, [sent[at : at + step] for at in range(0, len(sent), step)])
    assert error.status == status
    assert words in str(error)


def refusal(reading: RequestReader, pieces: list[bytes]) -> HttpError:
    """The error that ends this stream, which has no request in it."""
    try:
        for piece in pieces:
            assert not feed(reading, piece)[0]
    except HttpError as error:
        return error
    raise AssertionError("this was not refused")


def test_the_head_of_a_refused_body_is_known() -> None:
    """Its answer carries what answers to such a path carry."""
    reading = reader()
    put(reading, b"POST /much HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
    with pytest.raises(HttpError):
        reading.next_request(Nobody())
    assert reading.head is not None
    assert reading.head.path == "/much"
