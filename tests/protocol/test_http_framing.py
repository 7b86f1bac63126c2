"""Where a request ends: chunked bodies as httptools reads them, heads that parser and framing must agree about."""

from __future__ import annotations

import itertools

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.protocol.http.chunks import BadChunkError, Chunks, ChunkTooLargeError
from batchwright_worker.protocol.http.heads import CHUNKED, HEADS_KEPT, BadHeadError, HeadCache


class Reference:
    """httptools' own reading of a chunked request."""

    def __init__(self) -> None:
        self.body = b""
        self.done = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.done = True


def reference(data: bytes) -> tuple[bytes, bool]:
    """The body and whether it is whole. Raises HttpParserError."""
    seen = Reference()
    parser = httptools.HttpRequestParser(seen)
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    parser.feed_data(data)
    return seen.body, seen.done


def read(data: bytes, cuts: list[int], limit: int = 1 << 20) -> tuple[Chunks, int]:
    """Fed in pieces that end at the cuts; and how many bytes were used."""
    chunks, used = Chunks(limit), 0
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(places):
        if not chunks.done:
            used += chunks.feed(memoryview(data[begin:end]))
    return chunks, used


def chunked(pieces: list[bytes], trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n" + trailer + b"\r\n"


cuts = st.lists(st.integers(0, 4000), max_size=6)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6), cuts, st.binary(max_size=40))
def test_a_chunked_body_is_read_to_its_end_and_no_further(pieces: list[bytes], cuts: list[int], rest: bytes) -> None:
    data = chunked(pieces)
    chunks, used = read(data + rest, cuts)
    assert chunks.done
    assert bytes(chunks.body) == b"".join(pieces)
    assert used == len(data)


@given(
    st.lists(
        st.sampled_from(
            [b"0", b"1", b"a", b"5", b"\r\n", b"\n", b"\r", b";x=1", b" ", b"ab", b"-", b"0x", b"A: b", b"12"]
        ),
        max_size=14,
    ).map(b"".join),
    cuts,
)
def test_whatever_is_read_as_whole_httptools_reads_alike(data: bytes, cuts: list[int]) -> None:
    """Stricter is allowed; another body or another end is not."""
    try:
        chunks, used = read(data, cuts)
    except (BadChunkError, ChunkTooLargeError):
        return
    if chunks.done:
        assert reference(data[:used]) == (bytes(chunks.body), True)
        assert not reference(data[: used - 1])[1]


def test_extensions_and_trailers_are_read_over() -> None:
    chunks, _ = read(b"3;name=value\r\nabc\r\n0;last\r\nX-Sum: 9\r\n\r\n", [])
    assert (bytes(chunks.body), chunks.done) == (b"abc", True)


@pytest.mark.parametrize(
    "data",
    [
        b"g\r\n",
        b"\r\n",
        b"-1\r\n",
        b"3\nabc",
        b"3\r\nabcd\r\n",
        b"11111111111111111\r\n",
        b"1" * 5000,
        b" 3\r\nabc\r\n",
    ],
)
def test_broken_chunks_are_refused(data: bytes) -> None:
    with pytest.raises(BadChunkError):
        read(data, [])


def test_endless_trailers_are_refused() -> None:
    with pytest.raises(BadChunkError, match="trailers"):
        read(b"0\r\n" + b"X-A: b\r\n" * 3000, [])


def test_a_chunk_beyond_the_limit_is_refused_before_it_comes() -> None:
    with pytest.raises(ChunkTooLargeError):
        read(b"64\r\n", [], limit=99)


POST = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n"


def test_a_head_is_remembered_by_its_bytes() -> None:
    heads = HeadCache()
    head = heads.of(POST + b"Content-Length: 7\r\nX-Name:  two words \r\n\r\n")
    assert (head.method, head.path, head.body_bytes, head.keep_alive) == ("POST", "/v2/models/m/infer", 7, True)
    assert head.headers[b"x-name"] == b"two words"
    assert heads.of(POST + b"Content-Length: 7\r\nX-Name:  two words \r\n\r\n") is head
    for number in range(HEADS_KEPT + 5):
        assert heads.of(POST + b"Content-Length: %d\r\n\r\n" % number).body_bytes == number


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5 5\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"X: a\nContent-Length: 5\r\n",
        b"X: a\n\nContent-Length: 5\r\n",
        b" folded: x\r\n",
        b"no colon\r\n",
    ],
)
def test_heads_that_can_be_read_in_two_ways_are_refused(lines: bytes) -> None:
    with pytest.raises(BadHeadError):
        HeadCache().of(POST + lines + b"\r\n")


def test_chunked_upgrade_and_old_clients() -> None:
    heads = HeadCache()
    assert heads.of(POST + b"Transfer-Encoding: Chunked\r\n\r\n").body_bytes == CHUNKED
    assert heads.of(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").method == "GET"
    old = heads.of(b"GET http://b/c?d=1 HTTP/1.0\r\n\r\n")
    assert (old.path, old.query, old.keep_alive, old.connection) == ("/c", b"d=1", False, b"connection: close\r\n")
    assert not heads.of(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").keep_alive
    assert heads.of(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").connection == b"connection: keep-alive\r\n"
