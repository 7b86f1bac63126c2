"""The classes of an output, as Triton's clients ask for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.protocol.classification import WantedClasses, classes_of
from tests.protocol.serving import WEIGHTS, Served

X = np.random.default_rng(4).normal(size=(3, 16)).astype(np.float32)


def classes(array: Any, count: int, *, whole: bool = False, labels: tuple[str, ...] = ()) -> Any:
    wanted = WantedClasses(of={"y": count}, labels={"y": labels}, without_rows=frozenset("y" if whole else ""))
    return classes_of({"y": np.asarray(array)}, wanted)["y"].tolist()


@pytest.mark.parametrize(
    ("array", "count", "whole", "wanted"),
    [
        (np.float32([[0.5, 2, 1]]), 2, False, [[b"2.000000:1", b"1.000000:2"]]),
        (np.float32([[0.5, 2, 1], [3, 3, 4]]), 1, False, [[b"2.000000:1"], [b"4.000000:2"]]),
        (np.float32([[[[0.5]], [[2.0]]]]), 9, False, [[b"2.000000:1", b"0.500000:0"]]),
        (np.int32([[7, 7, 9]]), 3, False, [[b"9:2", b"7:0", b"7:1"]]),
        (np.float32([0.5, 2, 1]), 1, True, [b"2.000000:1"]),
        (np.float16([[0.5, 2]]), 1, False, [[b"2.000000:1"]]),
        (np.float32(3), 1, True, [b"3.000000:0"]),
        (np.int64([[2**53, 2**53 + 1]]), 1, False, [[b"9007199254740993:1"]]),
        (np.uint64([[2**64 - 2, 2**64 - 1, 0]]), 2, False, [[b"18446744073709551615:1", b"18446744073709551614:0"]]),
        (np.int64([[-(2**63), 2**63 - 1]]), 2, False, [[b"9223372036854775807:1", b"-9223372036854775808:0"]]),
        (np.array([[False, True]]), 2, False, [[b"1.000000:1", b"0.000000:0"]]),
    ],
)
def test_the_largest_come_first(array: Any, count: int, whole: bool, wanted: Any) -> None:
    assert classes(array, count, whole=whole) == wanted


def test_labels_follow_where_there_are_any() -> None:
    """One that is not there, or empty, is left out, not made up."""
    found = classes(np.float32([[0.5, 2, 1, 4]]), 4, labels=("cat", "dog", ""))
    assert found == [[b"4.000000:3", b"2.000000:1:dog", b"1.000000:2", b"0.500000:0:cat"]]


def test_text_has_no_classes() -> None:
    with pytest.raises(BadInput, match="only numbers have classes"):
        classes(np.array([[b"a"]], dtype=object), 1)


@pytest.fixture(params=["http", "http-json", "grpc"])
def client(request: pytest.FixtureRequest, served: Served) -> Any:
    """A function of x and a number of classes."""
    library: Any = triton_grpc if request.param == "grpc" else triton_http
    port = served.grpc if request.param == "grpc" else served.http
    client = library.InferenceServerClient(f"127.0.0.1:{port}")

    def ask(x: np.ndarray, count: int, *, model: str = "linear", datatype: str = "FP32", twice: bool = False) -> Any:
        tensor = library.InferInput("x", list(x.shape), datatype)
        tensor.set_data_from_numpy(x)
        options = {} if request.param == "grpc" else {"binary_data": request.param == "http"}
        output = library.InferRequestedOutput("y", class_count=count, **options)
        return client.infer(model, [tensor], outputs=[output] * (1 + twice)).as_numpy("y")

    yield ask
    client.close()


def test_tritons_clients_get_the_classes(client: Any) -> None:
    scores = X @ WEIGHTS
    found = client(X, 2)
    assert found.shape == (3, 2)
    for row, texts in zip(scores, found.tolist(), strict=True):
        for text, index in zip(texts, np.argsort(-row)[:2].tolist(), strict=True):
            value, label = (text.decode() if isinstance(text, bytes) else text).split(":")
            assert int(label) == index
            assert float(value) == pytest.approx(row[index], abs=1e-4)


def test_an_answer_without_classes_comes_between(client: Any) -> None:
    np.testing.assert_allclose(client(X, 0), X @ WEIGHTS, rtol=1e-4, atol=1e-5)
    assert client(X, 4).shape == (3, 4)
    np.testing.assert_allclose(client(X, 0), X @ WEIGHTS, rtol=1e-4, atol=1e-5)


def test_classes_of_text_and_an_output_twice_are_refused(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="only numbers have classes"):
        client(np.array([[b"a"]], dtype=object), 1, model="echo-bytes", datatype="BYTES")
    with pytest.raises(InferenceServerException, match="asked for twice"):
        client(X, 0, twice=True)
