"""What a script answers is what it declares, or an error that names output, wanted and given, through `serve`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.protocol.serving import Served, manifest, serving

SCRIPT = """
import numpy as np

class Model:
    def __init__(self, path):
        pass

    def infer(self, inputs):
        x = inputs["x"]
        choice = int(x[0, 0])
        return {"y": {
            6: lambda: x.astype(np.float64),
            8: lambda: [["a"] * x.shape[1]] * len(x),
            11: lambda: x.astype(">f4"),
            18: lambda: np.ma.masked_array(x, mask=True),
            19: lambda: np.concatenate([x, x], axis=1),
            20: lambda: x[:1].sum(0),
        }.get(choice, lambda: x)()}
"""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    tensor = {"datatype": "FP32", "shape": [2]}
    script = {"configMapKeyRef": {"name": "scripts", "key": "odd.py"}}
    model: dict[str, Any] = {
        "name": "odd",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
        "artifacts": [{"format": "python", "script": script}],
    }
    deployment, scripts = manifest("odd", [model])
    scripts["data"] = {"odd.py": SCRIPT}
    with serving(tmp_path_factory.mktemp("odd"), [deployment, scripts]) as served:
        yield served


def asked(served: Served, rows: list[list[float]]) -> tuple[int, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), 2], "data": rows}
    status, _, answer = served.get("/v2/models/odd/infer", json.dumps({"inputs": [tensor]}).encode())
    return status, json.loads(answer)


@pytest.mark.parametrize(
    ("choice", "wanted", "given"),
    [
        (6, "wanted FP32", "given FP64"),
        (8, "wanted FP32", "given text"),
        (18, "plain values", "a masked array"),
        (19, "wanted [1, 2]", "FP32 [1, 4]"),
        (20, "wanted [1, 2]", "FP32 [2]"),
    ],
)
def test_another_answer_than_declared_is_a_500_that_names_it(
    odd: Served, choice: float, wanted: str, given: str
) -> None:
    status, answer = asked(odd, [[choice, 1]])
    assert status == 500
    assert all(words in answer["error"] for words in ("output 'y'", wanted, given)), answer
    status, answer = asked(odd, [[1, 2]])
    assert (status, answer["outputs"][0]["data"]) == (200, [1, 2])


def test_foreign_byte_order_is_made_native(odd: Served) -> None:
    status, answer = asked(odd, [[11, 2]])
    assert (status, answer["outputs"][0]["data"]) == (200, [11, 2])
