"""What goes wrong in a model stays with its rows: bad rows, failing batches, a runtime killed in mid-batch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.protocol.serving import Served, echo_model, manifest, serving

KILLS, FAILS, BAD = 13.0, 14.0, 15.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("isolation")
    (folder / "marker").touch()
    return folder


@pytest.fixture(scope="module")
def fragile(folder: Path) -> Iterator[Served]:
    models = [echo_model("echo", "FP32", [4], folder / "marker"), echo_model("big", "UINT8", [-1], folder / "marker")]
    with serving(folder, manifest("fragile", models)) as served:
        yield served


def infer(served: Served, rows: list[list[float]]) -> tuple[int, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), 4], "data": rows}
    status, _, answer = served.get("/v2/models/echo/infer", json.dumps({"inputs": [tensor]}).encode())
    return status, json.loads(answer)


def data(answer: Any) -> list[float]:
    return answer["outputs"][0]["data"]


def ask_together(served: Served, values: list[float]) -> list[tuple[int, Any]]:
    """One caller for each value, all at once."""
    with ThreadPoolExecutor(len(values)) as pool:
        return list(pool.map(lambda value: infer(served, [[value, 1, 2, 3]]), values))


def test_a_bad_row_has_its_own_error_and_its_mates_their_answers(fragile: Served) -> None:
    values = [float(value) for value in range(12)] + [BAD]
    answers = ask_together(fragile, values)
    for value, (status, answer) in zip(values, answers, strict=True):
        if value == BAD:
            assert status == 500
            assert "it holds fifteen" in answer["error"]
        else:
            assert (status, data(answer)) == (200, [value, 1, 2, 3])


def test_a_batch_that_raises_is_bisected(fragile: Served) -> None:
    values = [float(value) for value in range(8)] + [FAILS]
    answers = ask_together(fragile, values)
    assert Counter(status for status, _ in answers) == {200: 8, 500: 1}
    assert "fourteen is not liked" in answers[-1][1]["error"]


def test_a_runtime_killed_in_mid_batch_costs_no_caller_its_answer(fragile: Served, folder: Path) -> None:
    values = [float(value) for value in range(8)] + [KILLS]
    answers = ask_together(fragile, values)
    assert (folder / "marker.killed").exists()
    for value, (status, answer) in zip(values, answers, strict=True):
        assert (status, data(answer)) == (200, [value, 1, 2, 3])
    assert infer(fragile, [[1, 2, 3, 4]])[0] == 200


def test_large_tensors_travel_whole(fragile: Served) -> None:
    """32 MB in and out: slots grow to what is needed."""
    payload = np.random.default_rng(1).integers(0, 256, size=32 << 20, dtype=np.uint8)
    header = {
        "inputs": [
            {
                "name": "x",
                "datatype": "UINT8",
                "shape": [2, 16 << 20],
                "parameters": {"binary_data_size": payload.size},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    encoded = json.dumps(header).encode()
    status, headers, answer = fragile.get(
        "/v2/models/big/infer",
        encoded + payload.tobytes(),
        **{"Inference-Header-Content-Length": str(len(encoded)), "Content-Type": "application/octet-stream"},
    )
    assert status == 200
    assert answer[int(headers["inference-header-content-length"]) :] == payload.tobytes()


def test_metrics_have_tritons_names_and_count_what_happened(fragile: Served) -> None:
    infer(fragile, [[1, 2, 3, 4], [5, 6, 7, 8]])
    status, headers, text = fragile.get("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    values = {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.decode().splitlines() if line[0] != "#"
    }
    labels = '{model="echo",version="1"}'
    for name in (
        "nv_inference_request_success",
        "nv_inference_count",
        "nv_inference_exec_count",
        "nv_inference_request_duration_us",
        "nv_inference_queue_duration_us",
        "nv_inference_compute_infer_duration_us",
        "batchwright_batch_size",
        "batchwright_device_seconds_total",
        "batchwright_predicted_device_seconds_total",
        "batchwright_latency_seconds_count",
    ):
        assert values[name + labels] > 0, name
    assert values["nv_inference_pending_request_count" + labels] == 0
    assert values['nv_inference_request_failure{model="echo",version="1",reason="BACKEND"}'] > 0
    assert values["batchwright_retried_batches_total" + labels] >= 1
    assert any(name.startswith('batchwright_dispatch_total{model="echo"') for name in values)
    assert any(name.startswith('batchwright_batches_total{model="echo"') for name in values)


def test_answers_tell_batch_size_and_expected_wait(fragile: Served) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [3, 4], "data": [0.0] * 12}
    _, headers, _ = fragile.get("/v2/models/echo/infer", json.dumps({"inputs": [tensor]}).encode())
    assert int(headers["batchwright-batch-size"]) >= 1
    assert int(headers["batchwright-expected-wait-ms"]) >= 0
