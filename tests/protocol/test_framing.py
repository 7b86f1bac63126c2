"""Where a request begins and ends is never in doubt: what two readers could read differently is refused, and so is
what only fills memory. The connection ends after that, and the server goes on."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.protocol.raw_http import connection, infer_request, read_response
from tests.protocol.serving import Served, emulated_model, manifest, serving

pytestmark = pytest.mark.slow
CHUNKED = b"Transfer-Encoding: chunked\r\n"
GOOD = infer_request("m", [[0.0, 1.0, 0, 0, 0, 0, 0, 0]])
BODY = GOOD.split(b"\r\n\r\n", 1)[1]


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    options = ("--sidecar-option=--body-seconds=1", "--sidecar-option=--max-body-bytes=1048576")
    with serving(tmp_path_factory.mktemp("framed"), manifest("framed", [emulated_model("m", 1)]), *options) as served:
        yield served


@dataclass(frozen=True)
class Case:
    name: str
    sent: bytes
    status: int
    words: str


def asked(*headers: bytes, body: bytes = b"") -> bytes:
    return b"".join((b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n", *headers, b"\r\n", body))


LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CASES = [
    Case("a length and chunks", asked(LENGTH, CHUNKED, body=b"0\r\n\r\n"), 400, "HTTP/1.1"),
    Case("chunks and a length", asked(CHUNKED, LENGTH, body=b"0\r\n\r\n"), 400, "HTTP/1.1"),
    Case("two lengths", asked(LENGTH, b"Content-Length: 1\r\n", body=BODY), 400, "HTTP/1.1"),
    Case("a negative length", asked(b"Content-Length: -1\r\n"), 400, "HTTP/1.1"),
    Case("a length with a sign", asked(b"Content-Length: +5\r\n", body=b"hello"), 400, "HTTP/1.1"),
    Case("a length that is no number", asked(b"Content-Length: 0x10\r\n"), 400, "HTTP/1.1"),
    Case("a length beyond any number", asked(b"Content-Length: " + b"9" * 40 + b"\r\n"), 400, "HTTP/1.1"),
    Case("a length beyond the limit", asked(b"Content-Length: 1048577\r\n"), 413, "at most 1048576 bytes"),
    Case("chunks in another coding", asked(b"Transfer-Encoding: gzip, chunked\r\n"), 501, "gzip, chunked"),
    Case("a name with a blank", asked(b"Content-Length : 5\r\n", body=b"hello"), 400, "HTTP/1.1"),
    Case("bare line feeds", GOOD.replace(b"\r\n", b"\n").replace(b"\n\n", b"\r\n\r\n"), 400, "HTTP/1.1"),
    Case("a folded header", asked(b"X-A: b\r\n c\r\n", LENGTH, body=BODY), 400, "HTTP/1.1"),
    Case("a chunk's size with 0x", asked(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n"), 400, "hexadecimal"),
    Case("a chunk's size with a sign", asked(CHUNKED, body=b"+5\r\nhello\r\n0\r\n\r\n"), 400, "hexadecimal"),
    Case("a chunk's size of 17 digits", asked(CHUNKED, body=b"1" + b"0" * 16 + b"\r\n"), 400, "hexadecimal"),
    Case("a chunk beyond the limit", asked(CHUNKED, body=b"fffffffffffffff\r\n"), 413, "at most 1048576 bytes"),
    Case("a chunk that is longer than told", asked(CHUNKED, body=b"2\r\nhello\r\n0\r\n\r\n"), 400, "behind a chunk"),
    Case("a chunk's line without CR", asked(CHUNKED, body=b"5\nhello\r\n0\r\n\r\n"), 400, "CR LF"),
    Case("an endless chunk extension", asked(CHUNKED, body=b"5;" + b"a" * 5000), 400, "4096 bytes"),
    Case("endless trailers", asked(CHUNKED, body=b"0\r\n" + b"a: b\r\n" * 3000), 400, "trailers"),
    Case("no HTTP at all", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "HTTP/1.1"),
    Case("another protocol", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2.0"),
    Case("another version", GOOD.replace(b"HTTP/1.1", b"HTTP/2.0"), 505, "HTTP/2.0 is not spoken"),
    Case("no version", b"GET /v2/health/live\r\nHost: a\r\n\r\n", 400, "no version"),
    Case("no host", GOOD.replace(b"Host: test\r\n", b""), 400, "0 Host headers"),
    Case("two hosts", asked(b"host: b\r\n", LENGTH, body=BODY), 400, "2 Host headers"),
    Case(
        "two lengths of the JSON part",
        asked(b"Inference-Header-Content-Length: 5\r\n", b"inference-header-content-length: 6\r\n", LENGTH, body=BODY),
        400,
        "inference-header-content-length is there twice",
    ),
    Case(
        "two content codings",
        asked(b"Content-Encoding: gzip\r\n", b"Content-Encoding: identity\r\n", LENGTH, body=BODY),
        400,
        "content-encoding is there twice",
    ),
    Case("an expectation", asked(b"Expect: foo\r\n", LENGTH, body=BODY), 417, "'foo'"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_doubtful_request_is_refused_and_its_connection_closed(framed: Served, case: Case) -> None:
    with connection(framed) as doubtful:
        doubtful.sendall(case.sent)
        status, answer = read_response(doubtful)
        assert status == case.status, answer
        assert case.words in answer["error"]
        doubtful.shutdown(socket.SHUT_WR)
        assert doubtful.recv(4096) == b""
    good_answer(framed)


def good_answer(served: Served) -> None:
    with connection(served) as good:
        good.sendall(GOOD)
        assert read_response(good)[1]["outputs"][0]["data"] == [1]


def test_a_body_behind_expect_is_waited_for(framed: Served) -> None:
    with connection(framed) as patient:
        patient.sendall(asked(LENGTH, b"Expect: 100-continue\r\n"))
        assert patient.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        patient.sendall(BODY)
        assert read_response(patient)[0] == 200


def test_one_byte_at_a_time_is_read_too(framed: Served) -> None:
    with connection(framed) as careful:
        careful.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(GOOD)):
            careful.sendall(GOOD[index : index + 1])
        assert read_response(careful)[0] == 200


def test_a_trickling_body_does_not_move_the_deadline(framed: Served) -> None:
    with connection(framed) as slow:
        slow.sendall(asked(b"Content-Length: 1000\r\n"))
        slow.settimeout(0.05)
        got = b""
        for _ in range(900):
            slow.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                got += slow.recv(4096)
            if b"408" in got:
                break
    assert b"408" in got


def test_who_sends_on_after_a_refusal_can_read_it(framed: Served) -> None:
    """Closing with unread bytes would reset the connection, and the answer would be lost."""
    with connection(framed) as late:
        late.sendall(asked(b"Content-Length: 1000000\r\n", body=b"x" * 1000))
        select.select([late], [], [], 60)
        late.sendall(b"x" * 500_000)
        status, answer = read_response(late)
    assert status == 408
    assert "body did not arrive" in answer["error"]


def test_head_of_everything_that_can_be_got(framed: Served) -> None:
    for path in (
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/m",
        "/v2/models/m/ready",
        "/v2/models/stats",
        "/metrics",
    ):
        with connection(framed) as probe:
            probe.sendall(b"HEAD %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path.encode())
            head, _, body = probe.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), path
        assert (b"content-length: 0" not in head, body) == (True, b"")


def test_an_old_client_needs_no_host(framed: Served) -> None:
    with connection(framed) as old:
        old.sendall(b"GET /v2/health/live HTTP/1.0\r\nExpect: foo\r\n\r\n")
        assert read_response(old)[0] == 200


def test_who_does_not_read_answers_is_hung_up_on(framed: Served) -> None:
    """It asks for ever and reads nothing: its answers stay bounded, after the deadline it is left."""
    with connection(framed) as deaf:
        deaf.settimeout(60)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            ask_for(deaf, seconds=60)
    good_answer(framed)


def ask_for(connected: socket.socket, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connected.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000)


def test_many_half_requests_do_not_keep_others_out(framed: Served) -> None:
    half = [connection(framed) for _ in range(300)]
    for each in half:
        each.sendall(GOOD[:-5])
    good_answer(framed)
    for each in half:
        with each:
            assert read_response(each)[0] == 408
    assert json.loads(framed.get("/v2/models/m/ready")[2])["ready"]
