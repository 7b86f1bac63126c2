"""Bad requests over HTTP: each gets its status and words that name the field and the remedy; the server goes on."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.protocol.serving import WEIGHTS, Served

ROW = [0.5] * 16
LINEAR = "/v2/models/linear/infer"


def tensor(**changes: Any) -> dict[str, Any]:
    """A good input of `linear`, but for the changes; None removes a field."""
    good = {"name": "x", "datatype": "FP32", "shape": [1, 16], "data": ROW, **changes}
    return {key: value for key, value in good.items() if value is not None}


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def binary(header: dict[str, Any], data: bytes, length: object = None) -> dict[str, Any]:
    """Body and header of a binary request."""
    encoded = json.dumps({"inputs": [header]}).encode()
    return {
        "body": encoded + data,
        "headers": {"Inference-Header-Content-Length": str(len(encoded) if length is None else length)},
    }


def sized(size: object) -> dict[str, Any]:
    return tensor(data=None, parameters={"binary_data_size": size})


@dataclass(frozen=True)
class Case:
    """What is sent, and what must come back."""

    name: str
    words: tuple[str, ...]
    body: bytes = b"{}"
    status: int = 400
    path: str = LINEAR
    headers: dict[str, str] = field(default_factory=dict)


RAW = np.array(ROW, np.float32).tobytes()
BYTES_HEADER = {"name": "x", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": 12}}
CASES = [
    Case("no JSON", ("no valid JSON", "Inference-Header-Content-Length"), b"\x00\x01"),
    Case("JSON of the wrong kind", ("Expected `object`", "array"), b"[]"),
    Case("JSON too deep", ("JSON", "depth"), b'{"inputs":[],"parameters":{"a":' + b"[" * 100_000),
    Case("no inputs field", ("inputs",), b"{}"),
    Case("no inputs at all", ("input 'x' of model linear is missing",), body()),
    Case("too many inputs", ("'inputs' has 1025", "wanted at most 1024"), body(*[tensor(data=[])] * 1025)),
    Case("too many outputs", ("'outputs' has 1025",), body(tensor(), outputs=[{"name": f"o{n}"} for n in range(1025)])),
    Case("an input without a name", ("name", "$.inputs[0]"), body(tensor(name=None))),
    Case("a shape of the wrong kind", ("$.inputs[0].shape", "Expected `int`"), body(tensor(shape=["1", 16]))),
    Case("an unknown input", ("no input 'z'", "['x']"), body(tensor(), tensor(name="z"))),
    Case("a missing input", ("input 'x'", "missing"), body(tensor(name="z"))),
    Case("an input twice", ("'x' is there twice", "leave one"), body(tensor(), tensor())),
    Case("an unknown output", ("no output 'q'", "['y']"), body(tensor(), outputs=[{"name": "q"}])),
    Case("an unknown datatype", ("input 'x'", "unknown datatype", "FP32 |", "'FP33'"), body(tensor(datatype="FP33"))),
    Case(
        "another datatype than the model's",
        ("input 'x'", "FP32 [-1, 16]", "INT64"),
        body(tensor(datatype="INT64", data=[1] * 16)),
    ),
    Case("another shape than the model's", ("FP32 [-1, 16]", "[1, 8]"), body(tensor(shape=[1, 8], data=[0.5] * 8))),
    Case("no dimensions", ("no dimensions", "the first is the batch", "[-1, 16]"), body(tensor(shape=[], data=[1.0]))),
    Case("no rows", ("number of rows", "1 to 65536", "given 0"), body(tensor(shape=[0, 16], data=[]))),
    Case("too many rows", ("of rows", "given 65537", "in pieces"), body(tensor(shape=[65537, 1], data=[0] * 65537))),
    Case("a negative dimension", ("negative dimension", "[1, -16]"), body(tensor(shape=[1, -16]))),
    Case("too many dimensions", ("too many dimensions", "at most 16"), body(tensor(shape=[1] * 17))),
    Case("a shape beyond memory", ("too large", "elements"), body(tensor(shape=[65536, 1 << 40, 1 << 40]))),
    Case("data that does not fill the shape", ("16 elements for shape [1, 16]", "15"), body(tensor(data=ROW[:15]))),
    Case("data nested otherwise", ("data that does not fill", "[16, 1]"), body(tensor(data=[[v] for v in ROW]))),
    Case("ragged data", ("ragged", "flat list"), body(tensor(data=[ROW[:8], ROW[8:15]]))),
    Case("data of the wrong kind", ("wrong kind", "FP32 values", "strings"), body(tensor(data=["a"] * 16))),
    Case("a null in the data", ("wrong kind", "nulls"), body(tensor(data=[None, *ROW[1:]]))),
    Case("data that is no list", ("no list", "int"), body(tensor(data=12345678901234567))),
    Case("no data", ("no data", "binary_data_size"), body(tensor(data=None))),
    Case(
        "words that are no UTF-8",
        ("input 'x'", "unreadable data"),
        body(tensor(datatype="BYTES", shape=[1, 1], data=["?"])).replace(b"?", b"\xff"),
        path="/v2/models/echo-bytes/infer",
    ),
    Case("a number out of range", ("out of range", "FP64"), body(tensor(data=[1e300] * 16))),
    Case(
        "integers with a fraction",
        ("wrong kind", "INT32 values", "fraction"),
        body(tensor(datatype="INT32", data=[1.5, 2], shape=[1, 2])),
        path="/v2/models/echo-int32/infer",
    ),
    Case(
        "an integer out of range",
        ("out of range", "-128 to 127", "given 300"),
        body(tensor(datatype="INT8", data=[1, 300], shape=[1, 2])),
        path="/v2/models/echo-int8/infer",
    ),
    Case(
        "FP16 as JSON",
        ("FP16", "raw bytes", "binary_data_size"),
        body(tensor(datatype="FP16", data=[1, 2], shape=[1, 2])),
        path="/v2/models/echo-fp16/infer",
    ),
    Case("timeout that is no number", ("'timeout'", "microseconds"), body(tensor(), parameters={"timeout": "1s"})),
    Case("a timeout that no float holds", ("'timeout'", "1000000"), body(tensor(), parameters={"timeout": 10**400})),
    Case("a timeout beyond 64 bits", ("'timeout'", "microseconds"), body(tensor(), parameters={"timeout": 1 << 64})),
    Case("a negative priority", ("'priority'", "given -1"), body(tensor(), parameters={"priority": -1})),
    Case("a sequence", ("'sequence_id'", "not served"), body(tensor(), parameters={"sequence_id": 5})),
    Case(
        "binary_data_output that is no flag",
        ("'binary_data_output'", "true or false"),
        body(tensor(), parameters={"binary_data_output": 1}),
    ),
    Case(
        "shared memory",
        ("shared_memory_region", "send the data"),
        body(tensor(data=None, parameters={"shared_memory_region": "r"})),
    ),
    Case(
        "classification",
        ("'y'", "'classification'", "how many classes"),
        body(tensor(), outputs=[{"name": "y", "parameters": {"classification": -3}}]),
    ),
    Case("an output twice", ("'y'", "asked for twice"), body(tensor(), outputs=[{"name": "y"}, {"name": "y"}])),
    Case("header length with a sign", ("Inference-Header-Content-Length", "'+10'"), **binary(sized(64), RAW, "+10")),
    Case(
        "header length beyond the body", ("Inference-Header-Content-Length", "'9999'"), **binary(sized(64), RAW, 9999)
    ),
    Case("a raw body of another size", ("'x'", "64"), **binary(sized(64), RAW, 0)),
    Case(
        "a header length of thousands of digits before a large body",
        ("Inference-Header-Content-Length", "'999"),
        body(tensor()) + b" " * 300_000,
        headers={"Inference-Header-Content-Length": "9" * 5000},
    ),
    Case("header length too short", ("no valid JSON",), **binary(sized(64), RAW, 20)),
    Case("binary size beyond the body", ("'x'", "bad binary_data_size", "64 bytes"), **binary(sized(65), RAW)),
    Case("binary size negative", ("bad binary_data_size", "-1"), **binary(sized(-1), RAW)),
    Case("binary size that is no number", ("bad binary_data_size", "'64'"), **binary(sized("64"), RAW)),
    Case("bytes that no input claims", ("4 bytes that no input claims",), **binary(sized(64), RAW + b"abcd")),
    Case("fewer bytes than the shape", ("'x'", "64 bytes", "60 bytes"), **binary(sized(60), RAW[:60])),
    Case(
        "data and bytes",
        ("both data and binary_data_size",),
        **binary(tensor(parameters={"binary_data_size": 64}), RAW),
    ),
    Case(
        "BYTES that end early",
        ("'x'", "broken lengths", "element 1"),
        path="/v2/models/echo-bytes/infer",
        **binary(BYTES_HEADER, struct.pack("<I", 4) + b"abcd" + struct.pack("<I", 9)),
    ),
    Case(
        "bytes that are neither true nor false",
        ("'x'", "0 or 1 each, given 2"),
        path="/v2/models/echo-bool/infer",
        **binary(tensor(datatype="BOOL", shape=[1, 3], data=None, parameters={"binary_data_size": 3}), b"\0\1\2"),
    ),
    Case("a ready that is no flag", ("$.ready", "bool"), b'{"ready": "true"}', path="/v2/repository/index"),
    Case("an unknown model", ("unknown model: 'nope'", "echo-bf16"), body(tensor()), 404, "/v2/models/nope/infer"),
    Case("an unknown version", ("no version '2'", "'1'"), body(tensor()), 404, "/v2/models/linear/versions/2/infer"),
    Case("an unknown path", ("nothing at '/v2/model'",), body(tensor()), 404, "/v2/model"),
    Case("the wrong method", ("not allowed", "GET"), body(tensor()), 405, "/v2/health/ready"),
    Case("a body that is too large", ("at most 4194304 bytes", "fewer rows"), b"x" * 5_000_000, 413),
]


def good_answer(served: Served) -> None:
    status, _, answer = served.get(LINEAR, body(tensor()))
    assert status == 200, answer
    np.testing.assert_allclose(json.loads(answer)["outputs"][0]["data"], np.float32(ROW) @ WEIGHTS, rtol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_request_is_answered_with_field_and_remedy(served: Served, case: Case) -> None:
    status, headers, answer = served.get(case.path, case.body, **case.headers)
    assert status == case.status, answer
    assert headers["content-type"] == "application/json"
    assert "batchwright-expected-wait-ms" in headers
    message = json.loads(answer)["error"]
    for word in case.words:
        assert word in message
    good_answer(served)


def test_the_longest_timeout_is_none(served: Served) -> None:
    status, _, answer = served.get(LINEAR, body(tensor(), parameters={"timeout": (1 << 64) - 1}))
    assert status == 200, answer


def test_booleans_are_looked_at_each_time(served: Served) -> None:
    """What is remembered of the first binary request does not speak for the second one."""
    header = tensor(datatype="BOOL", shape=[1, 3], data=None, parameters={"binary_data_size": 3})
    for data, wanted in ((b"\0\1\1", 200), (b"\0\1\3", 400), (b"\1\1\1", 200)):
        sent = binary(header, data)
        status, _, answer = served.get("/v2/models/echo-bool/infer", sent["body"], **sent["headers"])
        assert status == wanted, answer


def test_output_that_json_cannot_carry_names_the_remedy(served: Served) -> None:
    header = {"name": "x", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}}
    sent = binary(header, b"\x00" * 4)
    status, _, answer = served.get("/v2/models/echo-fp16/infer", sent["body"], **sent["headers"])
    assert status == 400
    assert "output 'y' is FP16" in json.loads(answer)["error"]
    assert "binary_data" in json.loads(answer)["error"]
