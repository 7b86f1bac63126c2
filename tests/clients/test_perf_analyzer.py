"""perf_analyzer, unmodified: it refuses models whose metadata and configuration do not agree, and makes its table of
the difference of two statistics calls, so both have to be exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.perf_analyzer import perf_analyzer, server_time
from tests.protocol.serving import Served
from tests.undisturbed import undisturbed

pytestmark = pytest.mark.slow


def counts(served: Served, model: str) -> dict[str, Any]:
    [found] = json.loads(served.get(f"/v2/models/{model}/stats")[2])["model_stats"]
    return found


def options(served: Served, protocol: str, model: str) -> list[str]:
    port = served.http if protocol == "http" else served.grpc
    return ["-m", model, "-i", protocol, "-u", f"127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("protocol", "more"),
    [
        ("http", ("-b", "2")),
        ("http", ("--async",)),
        ("http", ("--input-tensor-format", "json", "--output-tensor-format", "json")),
        ("grpc", ("-b", "2")),
        ("grpc", ("--async",)),
        ("grpc", ("--streaming",)),
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(each),
)
def test_a_closed_loop_is_measured(served: Served, tmp_path: Path, protocol: str, more: tuple[str, ...]) -> None:
    before = counts(served, "linear")
    [row] = perf_analyzer(tmp_path, *options(served, protocol, "linear"), *more, "--concurrency-range", "4")
    after = counts(served, "linear")
    assert row["Inferences/Second"] > 1
    assert 0 < server_time(row) < 1.2 * row["p99 latency"]
    assert all(row[name] > 0 for name in ("Server Compute Input", "Server Compute Infer", "Server Compute Output"))
    assert after["inference_count"] - before["inference_count"] >= 0.3 * row["Inferences/Second"]
    assert after["inference_stats"]["fail"]["count"] == before["inference_stats"]["fail"]["count"]


def test_a_rate_is_held(served: Served, tmp_path: Path) -> None:
    def rate() -> float:
        [row] = perf_analyzer(tmp_path, *options(served, "http", "linear"), "--request-rate-range", "100")
        return row["Inferences/Second"]

    wanted = pytest.approx(100, rel=0.25)
    assert undisturbed(rate, lambda found: found == wanted) == wanted


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_words_and_variable_shapes_are_generated_from_the_metadata(
    served: Served, tmp_path: Path, protocol: str
) -> None:
    words = options(served, protocol, "echo-bytes")
    [row] = perf_analyzer(tmp_path, *words, "--shape", "x:3", "--string-length", "12", "--concurrency-range", "2")
    assert row["Inferences/Second"] > 1
    [row] = perf_analyzer(tmp_path, *options(served, protocol, "echo-fp32"), "--shape", "x:5")
    assert row["Inferences/Second"] > 1


def test_metrics_are_collected(served: Served, tmp_path: Path) -> None:
    scraped = ("--collect-metrics", "--metrics-url", f"127.0.0.1:{served.http}/metrics")
    [row] = perf_analyzer(tmp_path, *options(served, "http", "linear"), *scraped)
    assert row["Inferences/Second"] > 1


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tensors_lie_in_shared_memory(served: Served, tmp_path: Path, protocol: str) -> None:
    shared = ("--shared-memory", "system", "--output-shared-memory-size", "4096")
    [row] = perf_analyzer(tmp_path, *options(served, protocol, "linear"), *shared, "--concurrency-range", "4")
    assert row["Inferences/Second"] > 1
