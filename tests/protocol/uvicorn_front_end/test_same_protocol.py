"""The protocol's tests over HTTP, behind uvicorn instead of our own server; and what ASGI leaves to the adapter."""

# ruff: noqa: F401, F403 - the tests of the other front end are this module's too
from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.protocol.raw_http import connection, infer_request, post, read_response
from tests.protocol.serving import Served, emulated_model, held, manifest, serving
from tests.protocol.test_bad_http_requests import *
from tests.protocol.test_compression import *
from tests.protocol.test_metrics_and_statistics import *
from tests.protocol.test_tls import Authority, connected, fresh_serial
from tests.protocol.test_triton_clients import *


def test_uvicorn_answers(served: Served) -> None:
    """Our own server has no such words."""
    with connection(served) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
        assert b"Invalid HTTP request received." in client.recv(4096)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v2 HTTP/1.1\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: foo\r\n\r\n", 417),
        (b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n", 413),
        (b"GET /v2/models/linear HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_what_asgi_leaves_to_the_adapter(served: Served, sent: bytes, status: int) -> None:
    with connection(served) as client:
        client.sendall(sent)
        assert read_response(client)[0] == status
    assert served.get("/v2/health/ready")[0] == 200


def test_a_chunked_body_is_counted(served: Served) -> None:
    with connection(served) as flood:
        flood.sendall(b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        flood.sendall((b"%x\r\n" % (1 << 20) + b"x" * (1 << 20) + b"\r\n") * 5)
        assert read_response(flood)[0] == 413


def test_head_has_no_body(served: Served) -> None:
    with connection(served) as probe:
        probe.sendall(b"HEAD /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head, _, body = probe.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""


def test_a_caller_that_leaves_cancels_its_rows(served: Served) -> None:
    with held(served):
        client: socket.socket = connection(served)
        client.sendall(infer_request("held", [[1.0] * 8]))
        wait_pending(served, 1.0)
        before = cancelled(served)
        client.close()
        wait_pending(served, 0.0)
        assert cancelled(served) == before + 1


def wait_pending(served: Served, number: float) -> None:
    end = time.monotonic() + 60
    while value(served, "nv_inference_pending_request_count") != number:
        assert time.monotonic() < end


def cancelled(served: Served) -> float:
    return value(served, "batchwright_cancelled_requests_total")


def value(served: Served, name: str) -> float:
    text = served.get("/metrics")[2].decode()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + '{model="held"'))


def test_uvicorn_serves_by_tls_too(tmp_path: Path) -> None:
    """A certificate that changes is served to new connections."""
    authority = Authority(tmp_path)
    documents = manifest("secure", [emulated_model("m", 1)])
    with serving(tmp_path, documents, "--http-front-end=uvicorn", *authority.options()) as served:
        first, new = fresh_serial(served, authority), authority.renew()
        end = time.monotonic() + 60
        while (seen := fresh_serial(served, authority)) == first:
            assert time.monotonic() < end
        assert seen == new
        with connected(served, authority.client()) as client:
            client.sendall(infer_request("m", [[1.0] + [0.0] * 7]))
            assert read_response(client)[0] == 200
