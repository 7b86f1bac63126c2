"""The inference port behind an ASGI server, without one: what an application needs of it is `RequestHead`, `Caller`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import numpy as np

from batchwright_worker.engine.engine import Engine
from batchwright_worker.protocol.catalogue import Catalogue
from batchwright_worker.protocol.http.asgi import AsgiApp
from batchwright_worker.protocol.http.messages import App
from batchwright_worker.protocol.http.routes import HttpApp
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.metrics import Metrics
from batchwright_worker.protocol.request_memory import RequestMemory
from tests.engine.devices import FakeDevice, engine_of, model
from tests.engine.virtual import run

Message = MutableMapping[str, Any]


async def answer(app: App, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Message, bytes]:
    """Status, headers and body of one request."""
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    lines += [(b"host", b"test"), (b"content-length", b"%d" % len(body))]
    scope: Message = {"type": "http", "http_version": "1.1", "method": method, "path": path, "query_string": b""}
    sent: list[Message] = []
    arriving = asyncio.Queue[Message]()
    for part in (body[:10], body[10:]):
        arriving.put_nowait({"type": "http.request", "body": part, "more_body": part == body[:10] != b""})

    async def send(message: Message) -> None:
        sent.append(message)

    memory = RequestMemory()
    await AsgiApp(app, Limits(), memory)({**scope, "headers": lines}, arriving.get, send)
    assert memory.held_bytes == 0
    start, content = sent
    names = {name.decode(): value.decode() for name, value in start["headers"]}
    assert int(names["content-length"]) == len(content["body"])
    return start["status"], names, content["body"]


def app_of(engine: Engine) -> HttpApp:
    catalogue = Catalogue(engine=engine, models={"m": model()}, kind="cpu")
    metrics = Metrics(engine.counters, engine.snapshot)
    return HttpApp(engine, catalogue, metrics, Limits(), ready=lambda: True, repository_control=False)


def test_infer_requests_and_others_are_answered() -> None:
    async def scenario() -> None:
        engine = engine_of([model()], FakeDevice())
        await engine.start()
        app = app_of(engine)
        status, headers, content = await answer(app, "POST", "/v2/models/m/infer", body())
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(content)["outputs"][0]["data"] == [10.0, 20.0]
        assert "batchwright-batch-size" in headers
        assert (await answer(app, "GET", "/v2/models/m/ready"))[0] == 200
        status, headers, content = await answer(app, "GET", "/v2/models/m/infer")
        assert (status, headers["allow"]) == (405, "POST")
        status, headers, content = await answer(app, "POST", "/v2/models/other/infer", body())
        assert status == 404
        assert "batchwright-expected-wait-ms" in headers
        await engine.close()

    run(scenario())


def body() -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}).encode()


def test_a_response_of_raw_bytes_has_its_head_apart_from_its_parts() -> None:
    async def scenario() -> None:
        engine = engine_of([model()], FakeDevice())
        await engine.start()
        rows = np.array([[1, 2], [3, 4]], np.float32)
        tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": rows.nbytes}}
        header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        length = {"inference_header_content_length": str(len(header))}
        for _ in range(2):
            status, headers, content = await answer(
                app_of(engine), "POST", "/v2/models/m/infer", header + rows.tobytes(), **length
            )
            assert status == 200
            values = content[int(headers["inference-header-content-length"]) :]
            assert np.array_equal(np.frombuffer(values, np.float32).reshape(2, 2), rows * 10)
        await engine.close()

    run(scenario())
