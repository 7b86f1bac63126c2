"""Models called as functions of arrays, at a real server; and what a busy one is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest

import batchwright as bw
from tests.protocol.serving import Served, serving
from tests.sdk.models import LENGTHS


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("sdk")
    (folder / "model.py").write_text(LENGTHS)
    artifact = {"format": "python", "uri": f"{folder.as_uri()}/", "script": {"file": "model.py"}}
    model = {
        "name": "lengths",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": []}, {"name": "x", "datatype": "FP32", "shape": [2]}],
        "outputs": [
            {"name": "length", "datatype": "INT64", "shape": []},
            {"name": "y", "datatype": "FP32", "shape": [2]},
        ],
        "artifacts": [artifact],
    }
    document = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "d"}}
    with serving(folder, [document | {"spec": {"models": [model]}}]) as served:
        yield served


@pytest.fixture
def endpoint(served: Served) -> bw.Endpoint:
    return bw.Endpoint(f"http://127.0.0.1:{served.http}")


def test_arrays_and_texts_go_in_and_arrays_come_out(endpoint: bw.Endpoint) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = endpoint.infer("lengths", {"text": ["a", "straße", ""], "x": x})
    np.testing.assert_array_equal(found["length"], [1, 7, 0])
    np.testing.assert_array_equal(found["y"], 2 * x)
    assert found["y"].dtype == np.float32


def test_only_the_outputs_that_are_asked_for_come(endpoint: bw.Endpoint) -> None:
    x = np.ones((1, 2), np.float32)
    assert list(endpoint.infer("lengths", {"text": [b"abc"], "x": x}, outputs=["length"])) == ["length"]


def test_metadata_says_what_the_model_takes(endpoint: bw.Endpoint) -> None:
    assert [each["name"] for each in endpoint.metadata("lengths")["inputs"]] == ["text", "x"]


def test_the_servers_words_are_the_error(endpoint: bw.Endpoint) -> None:
    with pytest.raises(bw.InferenceFailed, match="nobody") as failed:
        endpoint.metadata("nobody")
    assert failed.value.status == 404
    with pytest.raises(bw.InferenceFailed, match="x") as failed:
        endpoint.infer("lengths", {"text": ["a"], "x": np.ones((1, 3), np.float32)})
    assert failed.value.status == 400


def test_what_no_datatype_holds_is_refused_before_it_is_sent(endpoint: bw.Endpoint) -> None:
    with pytest.raises(ValueError, match="complex128"):
        endpoint.infer("lengths", {"x": np.ones(2, complex)})


def test_byte_order_is_no_part_of_a_value(endpoint: bw.Endpoint) -> None:
    x = np.arange(4, dtype=">f4").reshape(2, 2)
    np.testing.assert_array_equal(endpoint.infer("lengths", {"text": ["a", "b"], "x": x})["y"], 2 * x)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array(["a", 5], object), "element of a BYTES tensor is a int"),
        (np.array([None], object), "element of a BYTES tensor is a NoneType"),
        (["\ud800"], "UTF-8"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "masked array"),
        ([[1.0], [1.0, 2.0]], "inhomogeneous"),
    ],
)
def test_values_that_would_be_others_on_the_way_are_refused(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=f"input 'text'.*{words}"):
        bw.Endpoint("http://127.0.0.1:1", retries=0).infer("m", {"text": value})  # type: ignore[dict-item]


def test_a_name_of_an_output_is_no_list_of_names() -> None:
    with pytest.raises(TypeError, match="wanted a list of names"):
        bw.Endpoint("http://127.0.0.1:1", retries=0).infer("m", {}, outputs="length")


class Page(BaseHTTPRequestHandler):
    """What a proxy answers for somebody else; `tokens` are those that it was shown."""

    tokens: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.tokens.append(self.headers["Authorization"])
        body = b"<html>sign in</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None: ...


def test_an_answer_of_somebody_else_is_a_failed_inference() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Page.tokens.clear()
        endpoint = bw.Endpoint(f"http://127.0.0.1:{server.server_port}", headers={"Authorization": "Bearer t"})
        calls = (lambda: endpoint.metadata("m"), lambda: endpoint.infer("m", {"x": [1.0]}))
        for call in calls:
            with pytest.raises(bw.InferenceFailed, match="answers in no Open Inference Protocol"):
                call()
        assert Page.tokens == ["Bearer t"] * 2
        server.shutdown()


class Busy(BaseHTTPRequestHandler):
    """Turns the first two requests away."""

    seen, status = 0, 503

    def do_GET(self) -> None:
        type(self).seen += 1
        body = b'{"name": "m"}' if self.seen > 2 else b'{"error": "the queue is full"}'
        self.send_response(200 if self.seen > 2 else self.status)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("status", [503, 408])
def test_a_busy_server_is_asked_again_as_often_as_said(status: int) -> None:
    Busy.seen, Busy.status = 0, status
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(bw.InferenceFailed, match="the queue is full") as failed:
            bw.Endpoint(url, retries=1).metadata("m")
        assert failed.value.retry_after_s == 0
        assert Busy.seen == 2
        assert bw.Endpoint(url).metadata("m") == {"name": "m"}
        server.shutdown()
