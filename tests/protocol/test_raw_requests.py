"""A body that is nothing but the tensor, as `curl --data-binary` sends it."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import numpy as np
import pytest

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.raw_requests import parse_raw
from tests.protocol.serving import WEIGHTS, Served

HEADER = "Inference-Header-Content-Length"
X = np.random.default_rng(5).normal(size=(1, 16)).astype(np.float32)


def spec(shape: tuple[int, ...], datatype: str = "FP32", *, batched: bool = True) -> TensorSpec:
    return TensorSpec(name="x", datatype=datatype, shape=shape, batched=batched)


def parsed(one: TensorSpec, body: bytes) -> Any:
    return parse_raw("m", [one], memoryview(body), 0.0, Limits()).request.inputs["x"]


@pytest.mark.parametrize(
    ("one", "body", "shape"),
    [
        (spec((4,)), bytes(16), (1, 4)),
        (spec((-1,)), bytes(16), (1, 4)),
        (spec((2, -1)), bytes(16), (1, 2, 2)),
        (spec(()), bytes(4), (1,)),
        (spec((-1, 2), batched=False), bytes(16), (2, 2)),
        (spec((1,), "BYTES"), b"any bytes \x00\xff", (1, 1)),
        (spec((-1,), "BYTES"), b"", (1, 1)),
    ],
)
def test_a_body_is_one_row_of_the_only_input(one: TensorSpec, body: bytes, shape: tuple[int, ...]) -> None:
    found = parsed(one, body)
    assert found.shape == shape
    assert found.reshape(-1)[0] == (body if one.datatype == "BYTES" else 0)


@pytest.mark.parametrize(
    ("one", "size", "words"),
    [
        (spec((4,)), 15, "16"),
        (spec((-1,)), 15, "do not tell"),
        (spec((-1, -1)), 16, "do not tell"),
        (spec((2,), "BYTES"), 8, "one element"),
    ],
)
def test_a_body_of_another_size_is_refused(one: TensorSpec, size: int, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parsed(one, bytes(size))


def test_a_model_of_two_inputs_is_refused() -> None:
    with pytest.raises(BadInput, match="m has 2"):
        parse_raw("m", [spec(()), spec(())], memoryview(b"abcd"), 0.0, Limits())


def ask(served: Served, model: str, body: bytes) -> tuple[Any, bytes]:
    url = f"{served.url}/v2/models/{model}/infer"
    request = urllib.request.Request(url, body, {HEADER: "0", "Content-Type": "application/octet-stream"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer, length = response.read(), int(response.headers[HEADER])
    return json.loads(answer[:length]), answer[length:]


def test_the_answer_is_raw_too(served: Served) -> None:
    head, raw = ask(served, "linear", X.tobytes())
    assert (head["model_name"], head["outputs"][0]["shape"]) == ("linear", [1, 4])
    np.testing.assert_allclose(np.frombuffer(raw, np.float32), (X @ WEIGHTS)[0], rtol=1e-4, atol=1e-5)


def test_text_is_one_element(served: Served) -> None:
    _, raw = ask(served, "echo-bytes", b"427")
    assert raw == b"\x03\0\0\x00427"
