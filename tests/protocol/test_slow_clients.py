"""Clients that trickle, flood, or leave: they cost a deadline or a limit, never the server."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse

import pytest

from tests.protocol.raw_http import connection, infer_request, post, read_response
from tests.protocol.serving import Served, emulated_model, held, manifest, serving

OPTIONS = ("--sidecar-option=--header-seconds=0.4", "--sidecar-option=--body-seconds=0.6")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = [emulated_model("m", fixed_ms=1)]
    with serving(tmp_path_factory.mktemp("slow"), manifest("slow", models), *OPTIONS) as served:
        yield served


def test_headers_that_never_end_are_given_up(strict: Served) -> None:
    with connection(strict) as slow:
        slow.sendall(b"GET /v2 HTTP/1.1\r\nHost: a\r\n")
        status, answer = read_response(slow)
    assert status == 408
    assert "headers did not arrive within 0.4 s" in answer["error"]


def test_trickling_headers_do_not_move_the_deadline(strict: Served) -> None:
    with connection(strict) as slow:
        slow.settimeout(0.1)
        slow.sendall(b"GET /v2 HTTP/1.1\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            trickle(slow, seconds=60)


def trickle(connected: socket.socket, seconds: float) -> None:
    """One header every 0.1 s; raises once the other end has closed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connected.sendall(b"X-A: b\r\n")
        try:
            if b"408" in connected.recv(4096):
                connected.sendall(b"X-A: b\r\n")
        except TimeoutError:
            continue


def test_a_body_that_never_ends_is_given_up(strict: Served) -> None:
    with connection(strict) as slow:
        slow.sendall(post("/v2/models/m/infer", b"x" * 1000)[:-10])
        status, answer = read_response(slow)
    assert status == 408
    assert "body did not arrive within 0.6 s" in answer["error"]


def test_a_silent_connection_is_closed(strict: Served) -> None:
    with connection(strict) as silent:
        silent.settimeout(60)
        assert b"408" in silent.recv(4096)
        assert silent.recv(4096) == b""


def test_endless_headers_are_refused(strict: Served) -> None:
    with connection(strict) as flood:
        flood.sendall(b"GET /v2 HTTP/1.1\r\nX-Long: " + b"a" * 70_000)
        status, answer = read_response(flood)
    assert status == 431
    assert "65536 bytes" in answer["error"]


def test_a_chunked_body_is_counted(served: Served) -> None:
    """That server takes 4 MiB."""
    chunk = b"%x\r\n" % (1 << 20) + b"x" * (1 << 20) + b"\r\n"
    with connection(served) as flood:
        flood.sendall(b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        flood.sendall(chunk * 5 + b"0\r\n\r\n")
        status, answer = read_response(flood)
    assert status == 413
    assert "at most 4194304 bytes" in answer["error"]


def test_a_chunked_request_is_answered(served: Served) -> None:
    body = infer_request("held", [[1.0] * 8]).split(b"\r\n\r\n", 1)[1]
    with connection(served) as chunked:
        chunked.sendall(b"POST /v2/models/held/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (body[:7], body[7:]):
            chunked.sendall(b"%x\r\n" % len(part) + part + b"\r\n")
        chunked.sendall(b"0\r\n\r\n")
        assert read_response(chunked)[0] == 200


def test_pipelined_requests_are_answered_in_order(strict: Served) -> None:
    rows = [[float(index == place) for index in range(8)] for place in range(4)]
    with connection(strict) as pipelined:
        pipelined.sendall(b"".join(infer_request("m", [row]) for row in rows))
        answers = [read_response_of(pipelined) for _ in rows]
    assert answers == [0, 1, 2, 3]


def read_response_of(connected: socket.socket) -> int:
    """Winner of the next answer; reads byte by byte, so that the following answers stay in the socket."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connected.recv(1)
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    body = b""
    while len(body) < length:
        body += connected.recv(length - len(body))
    return int(body.split(b'"data":[')[1].split(b"]")[0])


def test_what_is_no_http_is_refused(strict: Served) -> None:
    with connection(strict) as strange:
        strange.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        assert strange.recv(4096).startswith(b"HTTP/1.1 400")


def test_rows_of_callers_that_left_do_not_run(served: Served) -> None:
    """Eight callers of a model that takes one row per batch; all but the first leave while it runs. One more batch may
    be on its way already."""
    before = served.get("/metrics")[2]
    callers = [connection(served) for _ in range(8)]
    with held(served, "narrow"):
        for count, caller in enumerate(callers, start=1):
            caller.sendall(infer_request("narrow", [[1.0] * 8]))
            wait_pending(served, count)
        for caller in callers[1:]:
            caller.close()
        wait_pending(served, 1)
    with callers[0]:
        assert read_response(callers[0])[0] == 200
    wait_pending(served, 0)
    after = served.get("/metrics")[2]
    assert (
        counted(after, "batchwright_cancelled_requests_total") - counted(before, "batchwright_cancelled_requests_total")
        == 7
    )
    assert counted(after, "nv_inference_exec_count") - counted(before, "nv_inference_exec_count") <= 2


def test_a_full_queue_refuses_with_retry_after(served: Served) -> None:
    """One runs, one may be on its way, eight wait, which is all that the model's queue takes."""
    with ExitStack() as stack:
        callers: list[socket.socket] = []
        with held(served, "narrow"):
            while True:
                caller = stack.enter_context(connection(served))
                caller.sendall(infer_request("narrow", [[1.0] * 8]))
                if not waits(served, caller, len(callers) + 1):
                    break
                callers.append(caller)
            assert len(callers) in (9, 10)
            answer = HTTPResponse(caller)
            answer.begin()
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert int(answer.headers["batchwright-expected-wait-ms"]) > 0
        assert b"maxQueueLength" in answer.read()
        assert [read_response(each)[0] for each in callers] == [200] * len(callers)


def waits(served: Served, caller: socket.socket, count: int) -> bool:
    """It is the last of so many that are neither answered nor refused."""
    deadline = time.monotonic() + 60
    while not select.select([caller], [], [], 0)[0]:
        if counted(served.get("/metrics")[2], "nv_inference_pending_request_count") == count:
            return True
        assert time.monotonic() < deadline
    return False


def wait_pending(served: Served, count: int) -> None:
    deadline = time.monotonic() + 60
    while counted(served.get("/metrics")[2], "nv_inference_pending_request_count") != count:
        assert time.monotonic() < deadline


def counted(metrics: bytes, name: str, model: str = "narrow") -> float:
    label = f'{name}{{model="{model}"'
    return next(float(line.rsplit(" ", 1)[1]) for line in metrics.decode().splitlines() if line.startswith(label))


def test_the_server_goes_on(strict: Served) -> None:
    with connection(strict) as good:
        good.sendall(infer_request("m", [[0.0, 1.0, 0, 0, 0, 0, 0, 0]]))
        assert read_response(good)[1]["outputs"][0]["data"] == [1]
