"""JSON values of tensors, in requests and in the answers of servers: exact, or refused with a true sentence."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.oip.http_tensors import BadTensorError, HttpTensor, array_of, from_raw, infer_response
from batchwright_worker.protocol import json_bodies
from batchwright_worker.protocol.limits import Limits

LARGE = 10**22


def read(datatype: str, data: str, shape: list[int]) -> Any:
    """The input of a body with this text for its data."""
    head = f'"name": "x", "datatype": "{datatype}", "shape": {json.dumps(shape)}'
    body = '{"inputs": [{%s, "data": %s}]}' % (head, data)  # noqa: UP031 - the text is full of braces
    return json_bodies.parse("m", body.encode(), None, 0.0, Limits()).request.inputs["x"]


@pytest.mark.parametrize(
    ("datatype", "data", "wanted"),
    [
        ("FP64", f"[{LARGE}, 1.5, -{LARGE}]", [1e22, 1.5, -1e22]),
        ("FP32", f"[{LARGE}, 2]", [float(np.float32(1e22)), 2.0]),
        ("FP64", f"[NaN, {LARGE}]", [np.nan, 1e22]),
        ("UINT64", "[18446744073709551615, 0]", [2**64 - 1, 0]),
        ("INT64", "[9223372036854775807, -9223372036854775808]", [2**63 - 1, -(2**63)]),
        ("BOOL", "[true, false]", [True, False]),
        ("FP32", "[[-0.0], [1]]", [0.0, 1.0]),
    ],
)
def test_numbers_of_any_length_are_read(datatype: str, data: str, wanted: list[Any]) -> None:
    found = read(datatype, data, [len(wanted), 1])
    np.testing.assert_array_equal(found.reshape(-1), np.array(wanted, found.dtype))


@pytest.mark.parametrize(
    ("datatype", "data", "words"),
    [
        ("INT64", "[9223372036854775808, -1]", "out of range.*given 9223372036854775808; use a wider"),
        ("UINT64", "[-1, 18446744073709551615]", "out of range.*given -1"),
        ("INT64", f"[{1 << 70}, 1]", f"out of range.*given {1 << 70}"),
        ("UINT64", f"[1{'0' * 90}, 1]", "out of range.*given 1000.*of 91 digits"),
        ("FP64", f"[1{'0' * 400}, 1]", "out of range: wanted numbers that FP64 can hold"),
        ("INT32", "[true, 2]", "wrong kind: wanted INT32 values, given booleans among the numbers"),
        ("FP32", "[2.5, false]", "given booleans among the numbers"),
        ("FP32", "[[2.5], [false]]", "given booleans among the numbers"),
        ("FP64", f"[{LARGE}, null]", "given mixed values or nulls"),
        ("FP64", f"[{LARGE}, true]", "given mixed values or nulls"),
        ("BOOL", "[1, 0]", "wanted BOOL values, given integers"),
        ("INT64", f"[1.5, {LARGE}]", "given mixed values or nulls|with a fraction"),
        ("BYTES", '["\\ud800", "a"]', "surrogates not allowed"),
    ],
)
def test_what_does_not_fit_is_called_what_it_is(datatype: str, data: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read(datatype, data, [2, 1])


# --- the answers of servers


def answered(datatype: str, shape: list[int], body: bytes = b"", **more: Any) -> Any:
    return array_of(HttpTensor(name="y", datatype=datatype, shape=shape, **more), body, 0)[0]


@pytest.mark.parametrize(
    ("tensor", "wanted"),
    [
        ({"datatype": "INT64", "shape": [2], "data": [2**53 + 1, -1]}, [2**53 + 1, -1]),
        ({"datatype": "FP16", "shape": [2], "data": [0.5, 1]}, [0.5, 1]),
        ({"datatype": "BF16", "shape": [1], "data": [0.5]}, [0.5]),
        ({"datatype": "FP32", "shape": [1, 2], "data": [[0.5, float("inf")]]}, [[0.5, float("inf")]]),
        ({"datatype": "BYTES", "shape": [1], "data": ["é"]}, ["é".encode()]),
        ({"datatype": "FP32", "shape": [0, 3], "data": []}, []),
        ({"datatype": "UINT8", "shape": [2], "parameters": {"binary_data_size": 2}, "body": b"ab"}, [97, 98]),
    ],
)
def test_an_answer_is_read_exactly(tensor: dict[str, Any], wanted: list[Any]) -> None:
    assert answered(**tensor).tolist() == wanted


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"datatype": "INT8", "data": [300]}, "out of range: wanted -128 to 127"),
        ({"datatype": "INT64", "data": [1.5]}, "with a fraction"),
        ({"datatype": "FP32", "data": [1e300]}, "out of range"),
        ({"datatype": "FP16", "data": [1e6]}, "out of range: wanted numbers that FP16"),
        ({"datatype": "FP32", "data": ["1.5"]}, "given strings"),
        ({"datatype": "FP32", "data": [None]}, "nulls"),
        ({"datatype": "FP32", "data": [True, 1.5], "shape": [2]}, "booleans among"),
        ({"datatype": "BOOL", "data": [2]}, "given integers"),
        ({"datatype": "BOOL", "data": ["False"]}, "given strings"),
        ({"datatype": "FP32"}, "neither a list of data nor binary_data_size"),
        ({"datatype": "FP32", "shape": []}, "neither a list of data nor binary_data_size"),
        ({"datatype": "FP32", "data": "1"}, "neither a list of data"),
        ({"datatype": "FP32", "shape": [-1], "data": [1.5]}, "negative size"),
        ({"datatype": "FP32", "shape": [3, 1], "data": [[1.5, 2, 3]]}, "does not fill its shape"),
        ({"datatype": "BYTES", "data": [5]}, "wanted strings, given int"),
        ({"datatype": "FP99", "data": [1]}, "datatype 'FP99' is unknown"),
        ({"datatype": "UINT8", "parameters": {"binary_data_size": True}, "body": b"ab"}, "binary_data_size is True"),
        ({"datatype": "UINT8", "parameters": {"binary_data_size": -1}, "body": b"ab"}, "binary_data_size is -1"),
        ({"datatype": "UINT8", "parameters": {"binary_data_size": 3}, "body": b"ab"}, "and 2 bytes are left"),
        ({"datatype": "UINT8", "parameters": {"binary_data_size": "1"}, "body": b"ab"}, "binary_data_size is '1'"),
        ({"datatype": "UINT8", "parameters": {"binary_data_size": 2}, "body": b"ab"}, "reshape"),
    ],
)
def test_an_answer_that_does_not_add_up_is_none(tensor: dict[str, Any], words: str) -> None:
    with pytest.raises(BadTensorError, match=f"output 'y': .*{words}"):
        answered(**{"shape": [1], **tensor})


def test_raw_bytes_of_an_unknown_type_are_no_doubles() -> None:
    with pytest.raises(ValueError, match="'FP99' is unknown"):
        from_raw("FP99", [1], bytes(8))


def test_the_json_of_an_answer_may_have_the_tokens() -> None:
    tensor = b'{"name": "y", "datatype": "FP32", "shape": [3], "data": [NaN, -Infinity, 1]}'
    [found] = infer_response(b'{"outputs": [%b]}' % tensor).outputs
    np.testing.assert_array_equal(array_of(found, b"", 0)[0], np.float32([np.nan, -np.inf, 1]))
    with pytest.raises(BadTensorError, match="an output is there twice"):
        infer_response(b'{"outputs": [%b, %b]}' % (tensor, tensor))
    with pytest.raises(BadTensorError, match="out of range"):
        infer_response(b'{"outputs": [%b]}' % tensor.replace(b"1]", b"1e999]"))
    with pytest.raises(msgspec.DecodeError):
        infer_response(b'{"outputs": [')
