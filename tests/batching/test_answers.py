"""Lists of Python numbers that a model answers, in the type that it declares: exactly, rounded, or refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from batchwright_worker.batching.answers import conformed
from batchwright_worker.inference.runtime import TensorSpec, WrongOutputs


def answered(values: list[float], datatype: str) -> list[float]:
    spec = TensorSpec(name="y", datatype=datatype, shape=(len(values),))
    return list(conformed({"y": [values]}, [spec], 1)["y"][0].tolist())


@pytest.mark.parametrize(
    ("values", "datatype", "wanted"),
    [
        ([1, 2], "INT32", [1, 2]),
        ([0.1], "FP32", [float(np.float32(0.1))]),
        ([65_504.0], "FP16", [65_504.0]),
        ([math.inf, -math.inf], "FP32", [math.inf, -math.inf]),
    ],
)
def test_they_take_the_declared_type(values: list[float], datatype: str, wanted: list[float]) -> None:
    assert answered(values, datatype) == wanted


@pytest.mark.parametrize(
    ("values", "datatype", "words"),
    [
        ([300], "UINT8", "whole numbers that it cannot hold"),
        ([1.0, 1e39], "FP32", "numbers beyond its largest"),
        ([math.inf, -1e39], "FP32", "numbers beyond its largest"),
        ([70_000], "FP16", "numbers beyond its largest"),
    ],
)
def test_what_it_cannot_hold_is_no_answer(values: list[float], datatype: str, words: str) -> None:
    with pytest.raises(WrongOutputs, match=words):
        answered(values, datatype)
