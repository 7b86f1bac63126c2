"""NaN and infinities in JSON bodies: exact both ways, and what else is wrong with a body stays wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import InferResult
from batchwright_worker.protocol import json_bodies
from batchwright_worker.protocol.limits import Limits

NAN, INF = float("nan"), float("inf")


def parsed(*tensors: dict[str, Any], **rest: Any) -> json_bodies.ParsedRequest:
    """The request of a body that Python's json has written."""
    return json_bodies.parse("m", json.dumps({"inputs": tensors, **rest}).encode(), None, 0.0, Limits())


def tensor(data: Any, datatype: str = "FP32", name: str = "x") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}


def test_tokens_are_read_beside_everything_else() -> None:
    request = parsed(
        tensor([NAN, INF, -INF, 0.1]),
        tensor([2**64 - 1, 0, 1, 2], "UINT64", "n"),
        tensor(["NaN", "\U0001f600", "-Infinity", ""], "BYTES", "text"),
        id="Infinity",
        parameters={"timeout": 1_000_000},
    ).request
    np.testing.assert_array_equal(request.inputs["x"], np.array([NAN, INF, -INF, 0.1], np.float32))
    assert request.inputs["n"].tolist() == [2**64 - 1, 0, 1, 2]
    assert request.inputs["text"].tolist() == [b"NaN", "\U0001f600".encode(), b"-Infinity", b""]
    assert (request.request_id, request.deadline) == ("Infinity", 1.0)


def test_a_float64_is_read_to_its_last_bit() -> None:
    values = np.random.default_rng(5).normal(size=200) * 10.0 ** np.arange(-150, 50)
    request = parsed(tensor([NAN, *values.tolist()], "FP64")).request
    assert np.array_equal(request.inputs["x"][1:], values)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [NaN, 1e400]}]}', "out of range"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [NaN, 1e300]}]}', "out of range"),
        (b'{"inputs": [{"name": "x", "datatype": "INT32", "shape": [2], "data": [NaN, 1]}]}', "wrong kind"),
        (b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": [NaN]}]}', "strings"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": NaN}]}', "bytes of JSON|no list"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [NaN], "data": [1]}]}', "shape"),
        (b'{"inputs": NaN}', "inputs"),
        (b"NaN", "wants"),
        (b'{"inputs": [], "parameters": {"timeout": Infinity}}', "'timeout' is wrong"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]]}', "no valid JSON"),
        (
            b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [2], "data": ["NaN", "\\ud800"]}]}',
            "unreadable|JSON",
        ),
        (b'{"id": "\\ud800", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}', "JSON"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [nan]}]}', "JSON"),
    ],
)
def test_what_else_is_wrong_stays_wrong(body: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        json_bodies.parse("m", body, None, 0.0, Limits())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_answers_hold_the_tokens(dtype: Any) -> None:
    values = np.array([[NAN, INF], [-INF, 0.1]], dtype)
    request = parsed(tensor([1.0]))
    result = InferResult(outputs={"y": values, "z": values[:, 1:]}, batch_size=1, queue_ms=0, run_ms=0)
    body, _ = json_bodies.response(request, "1", result)
    assert b"[NaN,Infinity,-Infinity," in body
    outputs = {output["name"]: output["data"] for output in json.loads(body)["outputs"]}
    np.testing.assert_array_equal(np.array(outputs["y"], dtype), values.reshape(-1))
    np.testing.assert_array_equal(np.array(outputs["z"], dtype), values[:, 1].reshape(-1))
