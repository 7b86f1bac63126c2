"""The inference port behind an ASGI front end: what an application needs of a server is `RequestHead` and `Caller`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchwright_worker.engine.engine import Engine
from batchwright_worker.protocol.catalogue import Catalogue
from batchwright_worker.protocol.http.messages import App, HttpRequest, HttpResponse, ResponseHead
from batchwright_worker.protocol.http.routes import HttpApp
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.metrics import Metrics
from tests.engine.devices import FakeDevice, engine_of, model
from tests.engine.virtual import run

Message = dict[str, Any]
Headers = list[tuple[bytes, bytes]]


@dataclass
class Head:
    """A `RequestHead` of an ASGI scope."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    body_bytes: int
    route: Any = None
    infer: Any = None


class AsgiCaller:
    """A `Caller` that keeps its response for the coroutine of the request."""

    def __init__(self) -> None:
        self.on_disconnect: Callable[[], object] | None = None
        self.disconnected = False
        self.response: asyncio.Future[tuple[int, Headers, bytes]] = asyncio.get_running_loop().create_future()

    def respond(self, response: HttpResponse) -> None:
        self.response.set_result((response.status, response.headers, response.body))

    def send(self, head: ResponseHead, *body: bytes) -> None:
        self.response.set_result((head.status, head.headers, b"".join(body)))


async def serve(app: App, scope: Message, body: bytes, send: Callable[[Message], Awaitable[None]]) -> None:
    """One request, as a server of ASGI hands it on once its body is there."""
    head = Head(scope["method"], scope["path"], scope["query_string"], dict(scope["headers"]), len(body))
    caller = AsgiCaller()
    app.handle(HttpRequest(head, memoryview(body), caller))
    status, headers, content = await caller.response
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def answer(app: App, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Message, bytes]:
    """Status, headers and body of one request."""
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await serve(app, {"method": method, "path": path, "query_string": b"", "headers": lines}, body, send)
    start, content = sent
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, content["body"]


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
