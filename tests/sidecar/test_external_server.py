"""protocol: open-inference: what the sidecar makes of a server of the user's, its answers, refusals and deaths."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from aiohttp import web

from batchwright_worker.inference.runtime import (
    BatchFailed,
    DeclaredSource,
    OutOfMemory,
    RuntimeBusy,
    RuntimeLost,
    WrongOutputs,
)
from batchwright_worker.sidecar.runtimes.external.server import ExternalServer, ExternalServerSettings
from tests.runtime.rig import spec

SOURCE = DeclaredSource(artifact=None, mode="Rows", untried="these tests count requests")
X = np.arange(12, dtype=np.float32).reshape(4, 3)
PARTS = [{"x": X[:1]}, {"x": X[1:]}]


class Server:
    """An Open Inference server of somebody else's: y = 2x. Its faults are attributes; it can die and come back."""

    def __init__(self) -> None:
        self.port = 0
        self.extensions: list[str] = ["binary_tensor_data"]
        self.ready: set[str] = {"m"}
        self.repository = {"m", "late"}
        self.has_repository_api = True
        self.error: tuple[int, str] | None = None
        self.rows_cut = 0
        self.says: dict[str, Any] = {}
        self.model: Any = lambda x: 2 * x
        self.largest_body = 1 << 30
        self.asked = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self.bodies: list[dict[str, Any]] = []
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=self.largest_body)
        app.router.add_get("/v2", self.about)
        app.router.add_get("/v2/health/{what}", self.health)
        app.router.add_get("/v2/models/{m}/ready", self.model_ready)
        app.router.add_get("/v2/models/{m}", self.metadata)
        app.router.add_post("/v2/models/{m}/infer", self.infer)
        if self.has_repository_api:
            app.router.add_post("/v2/repository/models/{m}/{verb}", self.repository_call)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def about(self, _request: web.Request) -> web.Response:
        return web.json_response({"name": "s", "extensions": self.extensions})

    async def health(self, request: web.Request) -> web.Response:
        good = request.match_info["what"] == "live" or self.ready
        return web.Response(status=200 if good else 503)

    async def model_ready(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["m"] in self.ready else 400)

    async def metadata(self, request: web.Request) -> web.Response:
        def tensor(name: str) -> dict[str, Any]:
            return {"name": name, "datatype": "FP32", "shape": [-1, 3]}

        return web.json_response({"name": "m", "inputs": [tensor("x")], "outputs": [tensor("y")], **self.says})

    async def repository_call(self, request: web.Request) -> web.Response:
        name = request.match_info["m"]
        if name not in self.repository:
            return web.json_response({"error": f"no {name} in the repository"}, status=400)
        (self.ready.add if request.match_info["verb"] == "load" else self.ready.discard)(name)
        return web.json_response({})

    async def infer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.asked.set()
        await self.answering.wait()
        if self.error is not None:
            return web.json_response({"error": self.error[1]}, status=self.error[0])
        length = int(request.headers.get("Inference-Header-Content-Length", len(body)))
        asked = json.loads(body[:length])
        self.bodies.append(asked)
        [x] = asked["inputs"]
        values = np.frombuffer(body[length:], np.float32) if length < len(body) else np.array(x["data"], np.float32)
        y = self.model(values.reshape(x["shape"]))[self.rows_cut :]
        output = {"name": "y", "datatype": "FP32", "shape": list(y.shape)}
        if length == len(body):
            return web.json_response({"outputs": [output | {"data": y.reshape(-1).tolist()}]})
        head = json.dumps({"outputs": [output | {"parameters": {"binary_data_size": y.nbytes}}]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        return web.Response(body=head + y.tobytes(), headers=headers)


class Watched:
    """The client, and what the engine would hear."""

    def __init__(self, client: ExternalServer) -> None:
        self.client = client
        self.lost, self.back = asyncio.Event(), asyncio.Event()
        self.overdue: list[tuple[str, str]] = []
        client.watch(lambda _why: self.lost.set(), self.back.set, lambda model, why: self.overdue.append((model, why)))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    await server.stop()


@contextlib.asynccontextmanager
async def watched(server: Server) -> AsyncIterator[Watched]:
    await server.start()
    client = ExternalServer(
        ExternalServerSettings(kind="cpu", device="runtime-0", url=f"http://127.0.0.1:{server.port}")
    )
    seen = Watched(client)
    client.start()
    try:
        async with asyncio.timeout(60):
            await seen.back.wait()
            yield seen
    finally:
        await client.close()


@pytest.mark.parametrize("extensions", [["binary_tensor_data"], []], ids=["binary", "json"])
async def test_a_batch_is_one_request(server: Server, extensions: list[str]) -> None:
    server.extensions = extensions
    async with watched(server) as seen:
        report = await seen.client.load("m", SOURCE)
        assert (report.inputs, report.outputs) == ((spec("x", (3,)),), (spec("y", (3,)),))
        result = await seen.client.run("m", PARTS, 4)
    np.testing.assert_array_equal(result.outputs["y"], 2 * X)
    assert len(server.bodies) == 1
    assert ("data" in server.bodies[0]["inputs"][0]) == (not extensions)
    assert result.device_seconds > 0


async def test_large_batches_travel_in_pieces(server: Server) -> None:
    large = np.random.default_rng(1).random((700, 3, 256), np.float32)
    async with watched(server) as seen:
        result = await seen.client.run("m", [{"x": large[:300]}, {"x": large[300:]}], 700)
    np.testing.assert_array_equal(result.outputs["y"], 2 * large)


async def test_a_body_that_the_server_finds_too_large_is_split(server: Server) -> None:
    server.largest_body = 100
    async with watched(server) as seen:
        with pytest.raises(OutOfMemory):
            await seen.client.run("m", PARTS, 4)


async def test_what_the_manifest_leaves_open_is_as_the_server_says(server: Server) -> None:
    declared = DeclaredSource(artifact=None, inputs=(spec("x", (-1,)),))
    async with watched(server) as seen:
        report = await seen.client.load("m", declared)
    assert (report.inputs, report.outputs) == ((spec("x", (3,)),), (spec("y", (3,)),))


ERRORS = {
    "a bad row": ((400, "x must be positive"), BatchFailed, "x must be positive"),
    "memory": ((500, "CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory, "2 GiB"),
    "a crash in the model": ((500, "ValueError: no"), BatchFailed, "ValueError"),
    "no time": ((503, "the queue is full"), RuntimeBusy, r"turned it away \(503\): the queue is full"),
    "too many requests": ((429, "slow down"), RuntimeBusy, r"turned it away \(429\)"),
}


@pytest.mark.parametrize("name", ERRORS)
async def test_errors_keep_the_servers_words(server: Server, name: str) -> None:
    server.error, kind, words = ERRORS[name]
    async with watched(server) as seen:
        with pytest.raises(kind, match=words):
            await seen.client.run("m", PARTS, 4)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([{"name": "x", "datatype": "float32", "shape": [-1, 3]}], "'x' as float32"),
        ([{"name": "x", "datatype": "FP32", "shape": [-2, 3]}], r"FP32 \[-2, 3\]"),
        ([{"name": "x", "datatype": "FP32", "shape": [3]}] * 2, "inputs have one name twice"),
        ([{"name": "x", "shape": [3]}], "missing required field `datatype`"),
    ],
)
async def test_metadata_that_cannot_be_used_say_so(server: Server, tensors: list[Any], words: str) -> None:
    server.says = {"inputs": tensors}
    async with watched(server) as seen:
        with pytest.raises(BatchFailed, match=words):
            await seen.client.load("m", DeclaredSource(artifact=None))


async def test_nan_and_infinity_travel_as_json_too(server: Server) -> None:
    server.extensions = []
    values = np.float32([[np.nan, np.inf, -np.inf]])
    async with watched(server) as seen:
        await seen.client.load("m", SOURCE)
        result = await seen.client.run("m", [{"x": values}], 1)
    np.testing.assert_array_equal(result.outputs["y"], values)


async def test_an_answer_without_all_rows_is_no_answer(server: Server) -> None:
    server.rows_cut = 1
    async with watched(server) as seen:
        await seen.client.load("m", SOURCE)
        with pytest.raises(WrongOutputs, match=r"'y' is not as declared: wanted \[4, 3\], given FP32 \[3, 3\]"):
            await seen.client.run("m", PARTS, 4)


async def test_bf16_needs_raw_bytes(server: Server) -> None:
    server.extensions = []
    async with watched(server) as seen:
        with pytest.raises(BatchFailed, match="grpcPort"):
            await seen.client.run("m", [{"x": X.astype(ml_dtypes.bfloat16)}], 4)


async def test_models_come_and_go_by_the_repository(server: Server) -> None:
    async with watched(server) as seen:
        await seen.client.load("late", SOURCE)
        assert "late" in server.ready
        await seen.client.unload("late")
        assert "late" not in server.ready
        with pytest.raises(BatchFailed, match=r"no other in the repository.*put it into the server's repository"):
            await seen.client.load("other", SOURCE)


async def test_without_a_repository_a_starting_model_is_waited_for(server: Server, caplog: Any) -> None:
    server.has_repository_api, server.ready = False, set()
    async with watched(server) as seen:
        loading = asyncio.create_task(seen.client.load("m", SOURCE))
        asyncio.get_running_loop().call_later(0.1, server.ready.add, "m")
        await loading
        await seen.client.unload("m")
    assert "keeps model m" in caplog.text


async def test_a_death_under_a_batch_is_told_before_the_batch_is_lost(server: Server) -> None:
    async with watched(server) as seen:
        server.answering.clear()
        running = asyncio.create_task(seen.client.run("m", PARTS, 4))
        await server.asked.wait()
        await server.stop()
        with pytest.raises(RuntimeLost):
            await running
        assert seen.lost.is_set()
        with pytest.raises(RuntimeLost, match="starting"):
            await seen.client.memory()
        seen.back.clear()
        server.answering.set()
        await server.start()
        await seen.back.wait()
        np.testing.assert_array_equal((await seen.client.run("m", PARTS, 4)).outputs["y"], 2 * X)


async def test_an_idle_servers_restart_without_its_models_is_noticed(server: Server) -> None:
    async with watched(server) as seen:
        await seen.client.load("late", SOURCE)
        seen.back.clear()
        await server.stop()
        server.ready.discard("late")
        await server.start()
        await seen.lost.wait()
        await seen.back.wait()
        await seen.client.load("late", SOURCE)
        assert "late" in server.ready


async def test_a_model_of_rows_is_found_by_requests_to_the_server(server: Server) -> None:
    async with watched(server) as seen:
        report = await seen.client.load("m", DeclaredSource(artifact=None))
    assert report.plan is not None
    assert (report.plan.mode, report.inputs, report.outputs) == ("Rows", (spec("x", (3,)),), (spec("y", (3,)),))


async def test_a_model_that_looks_across_rows_is_served_whole(server: Server) -> None:
    server.model = lambda x: x - x.mean(0)
    async with watched(server) as seen:
        report = await seen.client.load("m", DeclaredSource(artifact=None))
        result = await seen.client.run("m", [{"x": X}], 1)
    assert report.plan is not None
    assert report.plan.mode == "Whole"
    assert report.inputs[0].full_shape == (-1, 3)
    assert not report.inputs[0].batched
    np.testing.assert_allclose(result.outputs["y"], X - X.mean(0), atol=1e-6)


async def test_a_declaration_that_the_server_contradicts_is_refused(server: Server) -> None:
    async with watched(server) as seen:
        with pytest.raises(BatchFailed, match=r"declares input w FP32 \[-1, 3\]|declares no input 'x'"):
            await seen.client.load("m", DeclaredSource(artifact=None, inputs=(spec("w", (3,)),)))


@pytest.mark.parametrize("status", [503, 408])
async def test_a_server_that_is_busy_is_tried_again_later(server: Server, status: int) -> None:
    server.error = (status, "the queue is full")
    async with watched(server) as seen:
        with pytest.raises(BatchFailed, match="has no room for the trials of model 'm': the queue is full"):
            await seen.client.load("m", DeclaredSource(artifact=None))
        server.error = None
        report = await seen.client.load("m", DeclaredSource(artifact=None))
    assert report.plan is not None
    assert report.plan.mode == "Rows"


async def test_a_batch_beyond_its_limit_is_given_up_and_the_server_goes_on(server: Server) -> None:
    async with watched(server) as seen:
        await seen.client.load("m", SOURCE)
        server.answering.clear()
        with pytest.raises(RuntimeLost, match=r"batch of 4 rows of model m has taken longer than its limit") as lost:
            await seen.client.run("m", PARTS, 4, limit_s=0.2)
        assert lost.value.overdue
        [(model, why), (_, over)] = seen.overdue
        assert (model, over) == ("m", "")
        assert "has taken 0.1 s; it will be given up after 0.2 s" in why
        assert not seen.lost.is_set()
        assert seen.client.silent_since is not None
        server.answering.set()
        np.testing.assert_array_equal((await seen.client.run("m", PARTS, 4, limit_s=30)).outputs["y"], 2 * X)
        assert seen.client.silent_since is None
    assert len(seen.overdue) == 2


async def test_a_load_whose_trials_hang_is_given_up(server: Server) -> None:
    async with watched(server) as seen:
        server.answering.clear()
        with pytest.raises(RuntimeLost, match="load of model m has taken longer than its limit") as lost:
            await seen.client.load("m", DeclaredSource(artifact=None), limit_s=0.2)
        assert lost.value.overdue
        server.answering.set()
        assert (await seen.client.load("m", DeclaredSource(artifact=None), limit_s=30)).plan is not None
