"""Run by the interpreter of atheris' own environment: `fuzz_decoders.py TARGET -runs=N | -max_total_time=S [CORPUS]`.

Coverage-guided bytes into everything that reads what callers send: the JSON header and the tensors behind it, request
heads and chunks. What is allowed to come out: a value, or the typed error of that reader.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["batchwright_worker"]):
    from batchwright_worker.inference.errors import BadInput
    from batchwright_worker.oip.datatypes import encode_bytes, name_of
    from batchwright_worker.protocol.http.chunks import BadChunkError, Chunks, ChunkTooLargeError
    from batchwright_worker.protocol.http.connection import HttpConnection
    from batchwright_worker.protocol.http.deadlines import Timeouts
    from batchwright_worker.protocol.http.heads import CHUNKED, BadHeadError, HeadCache, ParsedHead
    from batchwright_worker.protocol.http.messages import HttpRequest, HttpResponse, json_response
    from batchwright_worker.protocol.http.receive_buffers import ReceiveBuffers
    from batchwright_worker.protocol.json_bodies import parse
    from batchwright_worker.protocol.limits import Limits
    from batchwright_worker.protocol.request_memory import RequestMemory

LIMITS = Limits(body_bytes=1 << 20, json_bytes=1 << 16)
SEEDS = {
    "infer": (
        b'\x00\x62{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
        b"\x00\x00\x80\x3f\x00\x00\x00\x40",
        b'\x00\x00{"inputs":[{"name":"x","datatype":"INT8","shape":[1,2],"data":[1,2]}],"parameters":{"timeout":5}}',
        b'\x00\x63{"inputs":[{"name":"x","datatype":"BYTES","shape":[1,1],"parameters":{"binary_data_size":6}}]}'
        b"\x02\x00\x00\x00ab",
        b'\x00\x00{"inputs":[{"name":"x","datatype":"BYTES","shape":[1,2],"data":[["a","b"]]}],"outputs":[{"name":"y"}]}',
    ),
    "head": (
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        b"GET /v2?a=%20 HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    "connection": (
        b"\x07POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
        b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x00POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        b"GET / HTTP/1.0\r\n\r\n",
    ),
    "chunks": (b"5\r\nhello\r\n0\r\n\r\n", b"a;x=1\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"),
}
"""`infer`: two bytes say how long the JSON part is said to be (0: no header), then the body."""


def infer(data: bytes) -> None:
    said, body = int.from_bytes(data[:2], "big"), data[2:]
    header = str(said).encode() if said else None
    try:
        parsed = parse("m", body, header, 1.0, LIMITS)
    except BadInput as error:
        if not str(error):
            raise AssertionError("an error without words") from error
        return
    request = parsed.request
    for array in request.inputs.values():
        if array.shape[0] != request.rows or array.nbytes > 64 * len(body) + 64:
            raise AssertionError(f"{array.shape} of {len(body)} bytes")
        if name_of(array.dtype) == "BYTES":
            encode_bytes(array)


def head(data: bytes) -> None:
    try:
        known = ParsedHead(data)
    except BadHeadError as error:
        if error.status not in (400, 417, 501, 505):
            raise AssertionError(str(error.status)) from error
        return
    if known.size != len(data) or known.body_bytes < CHUNKED:
        raise AssertionError(f"{known.size} of {len(data)}, body {known.body_bytes}")


def chunks(data: bytes) -> None:
    """In one piece, and cut in two at a place that the data say: the same body, or the same error."""
    cut = data[0] if data else 0
    if fed([data]) != fed([data[:cut], data[cut:]]):
        raise AssertionError("it matters how the bytes arrive")


def fed(pieces: list[bytes]) -> object:
    reader = Chunks(1 << 12)
    used = 0
    try:
        for piece in pieces:
            used += reader.feed(memoryview(piece))
    except (BadChunkError, ChunkTooLargeError) as error:
        return type(error).__name__, str(error)
    return bytes(reader.body), reader.done, used


class Transport:
    """What the connection writes."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        if self.closed:
            raise AssertionError("written after the end")
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        raise AssertionError("an answered connection never stops reading")

    resume_reading = pause_reading


class Port:
    """Answers each request at once with what it was."""

    limits = Limits(body_bytes=1 << 12, json_bytes=1 << 12, header_bytes=512)
    ticks, timeouts = 1, Timeouts(headers=9, body=9, idle=9, linger=9)
    stopping = False

    def __init__(self) -> None:
        self.heads = HeadCache()
        self.buffers = ReceiveBuffers(RequestMemory())
        self.requests: list[tuple[str, str, bytes]] = []

    def opened(self, connection: object) -> None:
        """Nothing to do."""

    closed = opened

    def handle(self, request: HttpRequest) -> None:
        self.requests.append((request.method, request.path, bytes(request.content)))
        if len(request.content) > self.limits.body_bytes:
            raise AssertionError(f"a body of {len(request.content)} bytes")
        request.caller.respond(json_response({"bytes": len(request.content)}))

    def with_common_headers(self, request: object, response: HttpResponse) -> HttpResponse:
        return response


def connection(data: bytes) -> None:
    """A whole connection, fed in one piece and cut in pieces: the same requests and the same answers."""
    size = 1 + (data[0] if data else 0)
    whole = spoken([data[1:]])
    if spoken([data[at : at + size] for at in range(1, len(data), size)]) != whole:
        raise AssertionError("it matters how the bytes arrive")


def spoken(pieces: list[bytes]) -> object:
    port, transport = Port(), Transport()
    connected = HttpConnection(port)
    connected.connection_made(transport)
    for piece in pieces:
        at = 0
        while at < len(piece) and not transport.closed:
            room = connected.get_buffer(len(piece) - at)
            count = min(len(room), len(piece) - at)
            room[:count] = piece[at : at + count]
            connected.buffer_updated(count)
            at += count
    closing = transport.closed
    connected.check(100)
    connected.connection_lost(None)
    return port.requests, transport.written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""), closing


TARGETS = {"infer": infer, "head": head, "chunks": chunks, "connection": connection}


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
