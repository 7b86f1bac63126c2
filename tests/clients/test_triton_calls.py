"""tritonclient, unmodified: asynchronous calls, streams, deadlines and priorities, load and unload."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException

from tests.protocol.serving import WEIGHTS, Served

pytestmark = pytest.mark.slow

X = np.random.default_rng(11).normal(size=(20, 16)).astype(np.float32)


def inputs(module: Any, rows: np.ndarray) -> list[Any]:
    tensor = module.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return [tensor]


def check(result: Any, rows: np.ndarray) -> None:
    np.testing.assert_allclose(result.as_numpy("y"), rows @ WEIGHTS, rtol=1e-4, atol=1e-5)


@pytest.fixture
def http(served: Served) -> Iterator[triton_http.InferenceServerClient]:
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.http}", concurrency=8) as client:
        yield client


@pytest.fixture
def grpc(served: Served) -> Iterator[triton_grpc.InferenceServerClient]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
        yield client


def test_http_asynchronous_calls(http: triton_http.InferenceServerClient) -> None:
    asked = [http.async_infer("linear", inputs(triton_http, X[:rows])) for rows in range(1, 21)]
    for rows, one in enumerate(asked, start=1):
        check(one.get_result(), X[:rows])


async def test_http_on_an_event_loop(served: Served) -> None:
    async with triton_http_aio.InferenceServerClient(f"127.0.0.1:{served.http}") as client:
        assert await client.is_server_ready()
        results = await asyncio.gather(
            *(client.infer("linear", inputs(triton_http, X[:rows])) for rows in range(1, 21))
        )
        for rows, result in enumerate(results, start=1):
            check(result, X[:rows])


def test_grpc_asynchronous_calls(grpc: triton_grpc.InferenceServerClient) -> None:
    done: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for rows in range(1, 21):
        tell = partial(lambda rows, result, error: done.put((rows, result, error)), rows)
        grpc.async_infer("linear", inputs(triton_grpc, X[:rows]), callback=tell)
    answers = [done.get(timeout=60) for _ in range(20)]
    assert sorted(rows for rows, _, _ in answers) == list(range(1, 21))
    for rows, result, error in answers:
        assert error is None
        check(result, X[:rows])


def test_grpc_streams_answer_each_request_in_order_and_survive_a_bad_one(
    grpc: triton_grpc.InferenceServerClient,
) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    grpc.start_stream(lambda result, error: done.put((result, error)))
    for rows in (3, 2, 1):
        grpc.async_stream_infer("linear", inputs(triton_grpc, X[:rows]), request_id=f"r{rows}")
    grpc.async_stream_infer("linear", inputs(triton_grpc, X[:1, :4]), request_id="bad")
    grpc.async_stream_infer("linear", inputs(triton_grpc, X[:5]), request_id="r5")
    answers = [done.get(timeout=60) for _ in range(5)]
    grpc.stop_stream()
    assert [result.get_response().id for result, error in answers if error is None] == ["r3", "r2", "r1", "r5"]
    assert "must be FP32 [-1, 16]" in str(answers[3][1])


async def test_grpc_on_an_event_loop(served: Served) -> None:
    async with triton_grpc_aio.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
        calls = (client.infer("linear", inputs(triton_grpc, X[:rows])) for rows in range(1, 21))
        for rows, result in enumerate(await asyncio.gather(*calls), start=1):
            check(result, X[:rows])


@pytest.mark.parametrize("module", [triton_http, triton_grpc])
def test_deadlines_and_priorities_are_taken(served: Served, module: Any) -> None:
    port = served.http if module is triton_http else served.grpc
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        check(client.infer("linear", inputs(module, X[:2]), priority=1, timeout=5_000_000), X[:2])
        with pytest.raises(InferenceServerException, match="deadline"):
            client.infer("linear", inputs(module, X[:2]), timeout=1)


@pytest.mark.parametrize("module", [triton_http, triton_grpc])
def test_files_and_other_backends_of_a_load_are_refused(served: Served, module: Any) -> None:
    """`tests/protocol/test_load_overrides.py` has what is taken."""
    overrides: list[dict[str, Any]] = [
        {"config": '{"backend": "python"}'},
        {"config": "{}", "files": {"file:1/model.onnx": b"abc"}},
    ]
    port = served.http if module is triton_http else served.grpc
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        for override in overrides:
            with pytest.raises(
                InferenceServerException, match=r"failed to load 'linear': (config.backend|parameter 'file:1)"
            ):
                client.load_model("linear", **override)
        client.unload_model("linear", unload_dependents=True)
        client.load_model("linear")
        assert client.is_model_ready("linear")


@pytest.mark.parametrize("module", [triton_http, triton_grpc])
def test_a_model_is_unloaded_and_loaded_again(served: Served, module: Any) -> None:
    port = served.http if module is triton_http else served.grpc
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.unload_model("echo-fp32")
        assert not client.is_model_ready("echo-fp32")
        assert states(client)["echo-fp32"] == "UNAVAILABLE"
        with pytest.raises(InferenceServerException, match="unloaded by request"):
            client.infer("echo-fp32", inputs(module, X[:1]))
        client.load_model("echo-fp32")
        assert client.is_model_ready("echo-fp32")
        assert states(client)["echo-fp32"] == "READY"
        assert client.infer("echo-fp32", inputs(module, X[:1])).as_numpy("y").tolist() == X[:1].tolist()
        with pytest.raises(InferenceServerException, match="unknown model: 'nope'"):
            client.load_model("nope")


def states(client: Any) -> dict[str, str]:
    found = client.get_model_repository_index()
    if isinstance(found, list):
        return {each["name"]: each["state"] for each in found}
    return {each.name: each.state for each in found.models}
