"""The bytes of one request per protocol, and how an answer is told right from wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np

Protocol = Literal["oip", "mosec", "plain"]
_PATHS = {"mosec": "/inference", "plain": "/"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One prebuilt request and how its answer's body ends (empty: any answer of status 200 is right)."""

    request: bytes
    answer: bytes


def rows_of(count: int, shape: tuple[int, ...], seed: int) -> list[bytes]:
    """Raw FP32 rows whose largest element is known to nobody but numpy."""
    generator = np.random.default_rng(seed)
    return [generator.random(shape, np.float32).tobytes() for _ in range(count)]


def argmax_answer(row: bytes) -> bytes:
    """What the emulated device answers for this row: INT64, little endian."""
    return int(np.frombuffer(row, np.float32).argmax()).to_bytes(8, "little")


def request_of(
    protocol: Protocol, row: bytes, shape: tuple[int, ...], model: str = "m", output: str = "argmax"
) -> bytes:
    """A POST on a kept connection: an OIP binary tensor, or the row itself where that is a server's natural body."""
    if protocol != "oip":
        return _post(_PATHS[protocol], "content-type: application/octet-stream\r\n", row)
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, *shape],
                    "parameters": {"binary_data_size": len(row)},
                }
            ],
            "outputs": [{"name": output, "parameters": {"binary_data": True}}],
        },
        separators=(",", ":"),
    ).encode()
    extra = f"content-type: application/octet-stream\r\ninference-header-content-length: {len(header)}\r\n"
    return _post(f"/v2/models/{model}/infer", extra, header + row)


def _post(path: str, extra: str, body: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: bench\r\n{extra}content-length: {len(body)}\r\n\r\n".encode() + body
