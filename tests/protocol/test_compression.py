"""Compressed bodies over HTTP: as Triton's client sends and reads them, and what is refused."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http

from batchwright_worker.protocol.http.compression import STEP_BYTES, decompressed
from batchwright_worker.protocol.http.messages import HttpError
from tests.protocol.serving import WEIGHTS, Served

X = np.random.default_rng(3).normal(size=(50, 16)).astype(np.float32)
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [1.5] * 16}], "id": "one"}
).encode()


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize("coding_in", [None, "gzip", "deflate"])
@pytest.mark.parametrize("coding_out", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_compresses_both_ways(
    served: Served, coding_in: str | None, coding_out: str | None, binary: bool
) -> None:
    tensor = triton_http.InferInput("x", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X, binary_data=binary)
    outputs = [triton_http.InferRequestedOutput("y", binary_data=binary)]
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.http}") as client:
        for _ in range(2):
            result = client.infer(
                "linear",
                [tensor],
                outputs=outputs,
                request_compression_algorithm=coding_in,
                response_compression_algorithm=coding_out,
            )
            np.testing.assert_allclose(result.as_numpy("y"), X @ WEIGHTS, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", raw_deflate)]
)
def test_a_compressed_request_gets_a_plain_answer(served: Served, coding: str, compress: Any) -> None:
    headers = {"Content-Encoding": coding, "Accept-Encoding": "gzip, deflate"}
    status, headers, answer = served.get("/v2/models/linear/infer", compress(BODY), **headers)
    assert (status, json.loads(answer)["id"]) == (200, "one")
    assert "content-encoding" not in headers


def test_an_answer_says_how_it_is_compressed(served: Served) -> None:
    status, headers, answer = served.get("/v2/models/linear/infer", BODY, **{"Accept-Encoding": "gzip"})
    assert (status, headers["content-encoding"], headers["vary"]) == (200, "gzip", "accept-encoding")
    assert int(headers["batchwright-batch-size"]) == 1
    assert json.loads(gzip.decompress(answer))["id"] == "one"


@pytest.mark.parametrize(
    ("coding", "body", "status", "words"),
    [
        ("gzip", gzip.compress(b" " * (4 << 20) + BODY), 413, "at most 4194304 bytes"),
        ("gzip", gzip.compress(BODY)[:-9], 400, "end early or late"),
        ("gzip", gzip.compress(BODY) + b"more", 400, "end early or late"),
        ("gzip", BODY, 400, "is no gzip data"),
        ("deflate", BODY, 400, "is no deflate data"),
        ("gzip", gzip.compress(b"{"), 400, "no valid JSON"),
        ("gzip", gzip.compress(BODY.replace(b"16]", b"17]")), 400, "'x'"),
        ("br", BODY, 415, "'br' is not read here; send gzip"),
        ("gzip, deflate", BODY, 415, "gzip, deflate"),
    ],
    ids=["bomb", "cut", "more", "no-gzip", "no-deflate", "no-json", "wrong-shape", "unknown", "two"],
)
def test_what_is_no_compressed_request_is_refused(
    served: Served, coding: str, body: bytes, status: int, words: str
) -> None:
    found, _, answer = served.get("/v2/models/linear/infer", body, **{"Content-Encoding": coding})
    assert (found, words in json.loads(answer)["error"]) == (status, True), answer
    assert served.get("/v2/models/linear/infer", BODY)[0] == 200


async def test_no_more_is_decompressed_than_is_taken() -> None:
    """A kilobyte that stands for a megabyte, a thousand times."""
    bomb = zlib.compress(bytes(1000 * STEP_BYTES), 9)
    held: list[int] = []
    with pytest.raises(HttpError, match="at most 5000000 bytes"):
        await decompressed(memoryview(bomb), b"deflate", 5_000_000, held.append)
    assert sum(held) <= 5_000_000
    assert max(held) <= STEP_BYTES


async def test_a_piece_that_there_is_no_memory_for_ends_it() -> None:
    def hold(size: int) -> None:
        raise MemoryError(size)

    with pytest.raises(MemoryError):
        await decompressed(memoryview(zlib.compress(bytes(10))), b"deflate", 100, hold)


async def test_large_random_bodies_come_out_as_they_were() -> None:
    plain = np.random.default_rng(1).bytes(5 * STEP_BYTES) + bytes(3 * STEP_BYTES)
    for coding, data in ((b"gzip", gzip.compress(plain, 1)), (b"deflate", raw_deflate(plain))):
        assert await decompressed(memoryview(data), coding, len(plain), lambda size: None) == plain
