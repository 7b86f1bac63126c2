"""What a task made, as rows of a model: names, types, shapes, and JSON's numbers without a type of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from batchwright_worker.runner.errors import TaskFailed
from batchwright_worker.runner.graph.block_values import BlockValues
from batchwright_worker.runner.models.call import ModelCall
from batchwright_worker.runner.models.row_block import asked_rows
from batchwright_worker.runner.models.signature import InputSignature, TensorType, group_of, mismatch, rows_of
from batchwright_worker.runner.models.wire import BadAnswerError, outputs_of, request_parts
from batchwright_worker.runner.progress import TaskCounters


def signature(datatype: str = "FP32", *shape: int) -> InputSignature:
    return InputSignature(
        deployment="d", model="m", inputs=(TensorType(name="x", datatype=datatype, shape=shape or (-1,)),)
    )


@pytest.mark.parametrize(
    ("value", "datatype", "wanted"),
    [
        ([1, 2], "FP32", np.array([1, 2], np.float32)),
        ([1.5, 2], "FP16", np.array([1.5, 2], np.float16)),
        ([1, 200], "UINT8", np.array([1, 200], np.uint8)),
        ([True, False], "BOOL", np.array([True, False])),
        ([], "INT64", np.array([], np.int64)),
        (["a", "ü\0"], "BYTES", np.array(["a", "ü\0"], object)),
    ],
)
def test_json_takes_the_inputs_type(value: Any, datatype: str, wanted: Any) -> None:
    (((name, array),),), many = rows_of({"x": value, "more": 1}, signature(datatype))
    assert (name, many) == ("x", False)
    assert array.dtype == wanted.dtype
    assert np.array_equal(array, wanted)


@pytest.mark.parametrize(
    ("value", "wanted", "words"),
    [
        ({"x": [1.5]}, signature("INT64"), "wanted INT64, given FP64"),
        ({"x": [300]}, signature("UINT8"), "does not fit UINT8"),
        ({"x": [1.0, 1e39]}, signature("FP32"), "does not fit FP32"),
        ({"x": [70_000]}, signature("FP16"), "does not fit FP16"),
        ({"x": [[1], [1, 2]]}, signature("FP32"), "input 'x'"),
        ({"x": np.zeros(3)}, signature("FP32"), r"wanted FP32, given FP64; convert with .astype\(float32\)"),
        ({"x": np.zeros((2, 3), np.float32)}, signature("FP32", 2, 4), r"wanted shape \[2, 4\] .*, given \[2, 3\]"),
        ({"y": np.zeros(3, np.float32)}, signature("FP32"), r"wants input 'x', the row has \['y'\]"),
        ("text", signature("FP32"), "it was given str"),
        ([{"x": np.zeros(3, np.float32)}, {}], signature("FP32"), "row 1: model d/m wants input 'x'"),
        ({"x": np.array([1j])}, signature("FP32"), "no datatype for numpy's complex128"),
        ({"x": np.array(["a", 5], object)}, signature("BYTES"), "'x': an element of a BYTES tensor is a int"),
        ({"x": np.array(["\ud800"])}, signature("BYTES"), "cannot be written in UTF-8"),
        (
            {"x": np.ma.masked_array(np.ones(2, np.float32), [1, 0])},
            signature("FP32"),
            r"fill it: x.filled\(0\)",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_described(value: Any, wanted: InputSignature, words: str) -> None:
    with pytest.raises(TaskFailed, match=words):
        rows_of(value, wanted)


def test_an_array_alone_serves_a_model_with_one_input() -> None:
    rows, many = rows_of(np.zeros(4, np.float32), signature())
    assert (len(rows), many, rows[0][0][0]) == (1, False, "x")


def test_rows_of_equal_types_and_shapes_are_one_group() -> None:
    (first, second, other), many = rows_of([np.zeros(n, np.float32) for n in (4, 4, 5)], signature())
    assert many
    assert group_of(first, signature()) == group_of(second, signature()) != group_of(other, signature())


def test_rows_travel_in_the_protocols_byte_order() -> None:
    """Files of other fields have the other one, and numpy computes with it all the same."""
    values = BlockValues(range(2), rows=[np.array([n, 2 * n], ">f4") for n in (1, 2)])
    call = ModelCall(asked_rows(values, range(2), signature()), TaskCounters(name="t", kind="Model"), lambda *_: None)
    _, tensors = request_parts(call.pending(), signature())
    assert b"".join(tensors) == np.array([[1, 2], [2, 4]], "<f4").tobytes()


@pytest.mark.parametrize(("datatype", "large"), [("FP32", 1e39), ("FP16", 70_000.0), ("FP16", 70_000)])
def test_a_number_that_would_become_infinite_fails_its_item_alone(datatype: str, large: float) -> None:
    values = BlockValues(range(3), rows=[{"x": [number, number]} for number in (1, large, 2)])
    asked = asked_rows(values, range(3), signature(datatype))
    assert asked.rows == 2
    assert {item: text.rpartition("] ")[2] for item, text in asked.failed.items()} == {1: f"does not fit {datatype}"}


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"x": ("FP32", (-1,))}, None),
        ({"x": ("FP32", (7,))}, None),
        ({"y": ("FP32", (-1,))}, "wants input 'x'"),
        ({"x": ("FP64", (-1,))}, "wanted FP32, declared FP64"),
        ({"x": ("FP32", (1, 7))}, r"wanted [-1], declared [1, 7]"),
    ],
)
def test_declarations_are_compared_with_the_model(declared: Any, words: str | None) -> None:
    found = mismatch(declared, signature())
    assert found is None if words is None else words in (found or "")


def test_a_request_and_its_answer_keep_rows_apart() -> None:
    values = BlockValues(range(4), rows=[np.full(3, n, np.float32) for n in range(4)])
    answers: list[BlockValues] = []
    call = ModelCall(
        asked_rows(values, range(4), signature()),
        TaskCounters(name="t", kind="Model"),
        lambda answer, _: answers.append(answer),
    )
    (pending,) = call.pending()
    header, tensors = request_parts([pending], signature())
    assert b'"shape":[4,3]' in header
    assert b"".join(tensors) == np.repeat(np.arange(4, dtype=np.float32), 3).tobytes()
    answer = b'{"outputs":[{"name":"y","datatype":"INT64","shape":[4],"parameters":{"binary_data_size":32}}]}'
    pending.done(outputs_of(answer + np.arange(4).tobytes(), len(answer), 4, signature()), 4, 4)
    assert [int(answers[0].value(item)["y"]) for item in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "header"),
        (b'{"outputs":[{"name":"y","datatype":"INT64","shape":[3],"data":[1,2,3]}]}', "4 rows were asked for"),
        (b'{"outputs":[{"name":"y","datatype":"WORD","shape":[4],"data":[1,2,3,4]}]}', "datatype 'WORD' is unknown"),
        (b'{"outputs":[{"name":"y","datatype":"INT64","shape":[4],"data":[1]}]}', "output 'y'"),
    ],
)
def test_an_answer_that_is_none_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(BadAnswerError, match=words):
        outputs_of(body, None, 4, signature())
