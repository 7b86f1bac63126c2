"""What a load says of the model's configuration, by Triton's clients: taken, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.protocol.serving import echo_model, emulated_model, manifest, serving


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("loads")
    (folder / "marker").touch()
    whole = echo_model("whole", "FP32", [2], folder / "marker") | {"batching": {"mode": "Whole"}}
    models = [emulated_model("m", 1, minSize=2, maxSize=8), whole]
    documents = manifest("loads", models, repositoryControl=True)
    with (
        serving(folder, documents) as served,
        triton_http.InferenceServerClient(f"127.0.0.1:{served.http}") as http,
        triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as grpc,
    ):
        yield {"http": http, "grpc": grpc}


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, clients: dict[str, Any]) -> Any:
    return clients[request.param]


def bounds(client: Any) -> tuple[int, int, int]:
    """Most rows, delay in microseconds, length of the queue."""
    config = client.get_model_config("m")
    config = config if isinstance(config, dict) else client.get_model_config("m", as_json=True)["config"]
    batching = config["dynamic_batching"]
    return (
        int(config["max_batch_size"]),
        int(batching.get("max_queue_delay_microseconds", 0)),
        int(batching["default_queue_policy"]["max_queue_size"]),
    )


def test_bounds_hold_until_the_next_load(client: Any) -> None:
    client.load_model("m", config='{"max_batch_size": "16"}')
    assert bounds(client) == (16, 0, 10_000)
    assert client.is_model_ready("m")
    queue = '"default_queue_policy": {"max_queue_size": 50}'
    client.load_model("m", config=f'{{"dynamic_batching": {{"max_queue_delay_microseconds": 3500, {queue}}}}}')
    assert bounds(client) == (8, 3000, 50)
    client.load_model("m")
    assert bounds(client) == (8, 0, 10_000)


@pytest.mark.parametrize(
    ("model", "config", "why"),
    [
        ("m", '"parameters": {"config": {{"max_batch_size": "16"}}}', "'config' is no model configuration"),
        ("m", "[]", "'config' is no model configuration: '[]' is no JSON object"),
        ("m", "5", "'5' is no JSON object"),
        ("m", '{"a":' * 50_000, "'config' is no model configuration"),
        ("m", '{"max_batch": 16}', "no field named"),
        ("m", '{"backend": "python"}', "config.backend: it is the ModelDeployment's; taken are max_batch_size"),
        ("m", '{"name": "n"}', "config.name"),
        ("m", '{"max_batch_size": 100000}', "batching: Expected `int` <= 4096"),
        ("m", '{"max_batch_size": 1}', "batching.maxSize: smaller than minSize"),
        ("m", '{"dynamic_batching": {"preserve_ordering": true}}', "config.dynamic_batching.preserve_ordering"),
        ("whole", '{"max_batch_size": 4}', "its requests are run whole"),
    ],
)
def test_what_is_not_taken_is_refused_by_name(client: Any, model: str, config: str, why: str) -> None:
    with pytest.raises(InferenceServerException, match="failed to load") as refused:
        client.load_model(model, config=config)
    assert why in str(refused.value)
    assert bounds(client) == (8, 0, 10_000)


def test_files_are_refused(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="a model's files are those of its artifact"):
        client.load_model("m", config="{}", files={"file:1/model.onnx": b"abc"})
