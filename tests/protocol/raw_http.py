"""HTTP by hand, for clients that misbehave."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.protocol.serving import Served


def connection(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.http), timeout=60)


def infer_request(model: str, values: list[list[float]], **parameters: Any) -> bytes:
    """A whole POST with JSON data of one FP32 input x."""
    shape = [len(values), len(values[0])]
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "data": [v for row in values for v in row]}
    body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return post(f"/v2/models/{model}/infer", body)


def post(path: str, body: bytes, *headers: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def read_response(connected: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and JSON body of the next answer."""
    with connected.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        length = 0
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        return status, json.loads(stream.read(length) or b"{}")
