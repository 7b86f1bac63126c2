"""OpenTelemetry: spans of a served model arrive at a real collector, in the callers' own traces."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.protocol.serving import Served, emulated_model, manifest, serving
from tests.sidecar.collector import Collector, Received
from tests.undisturbed import undisturbed

pytestmark = pytest.mark.slow

TREE = ("infer m", "queue", "execute", "batch", "runtime")
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1.0] * 8}]}).encode()
BAD = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0] * 3}]}).encode()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def served(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One model of 40 ms a batch, traced."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.port}")
        patched.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patched.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
        folder = tmp_path_factory.mktemp("traced")
        with serving(folder, manifest("traced", [emulated_model("m", 40)])) as served:
            yield served


def caller(flags: str = "01") -> tuple[str, str, str]:
    """A caller's trace, its span, and the header that tells of them."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, f"00-{trace}-{span}-{flags}"


def ask(served: Served, traceparent: str, body: bytes = BODY) -> int:
    return served.get("/v2/models/m/infer", body, traceparent=traceparent)[0]


def test_a_request_is_a_tree_in_its_callers_trace(served: Served, collector: Collector) -> None:
    wanted = pytest.approx(0.04, rel=0.3)

    def run() -> tuple[str, int, dict[str, Received], int]:
        trace, parent, header = caller()
        before = time.time_ns()
        assert ask(served, header) == 200
        after = time.time_ns()
        return parent, before, collector.of_trace(trace, *TREE), after

    parent, before, spans, after = undisturbed(run, lambda found: took_s(found[2]) == (wanted, wanted))
    infer, batch, runtime = spans["infer m"], spans["batch"], spans["runtime"]
    assert infer.parent == parent
    assert infer.kind == 2, "a server's span"
    assert infer.service == "traced"
    assert {spans[name].parent for name in ("queue", "execute", "batch")} == {infer.span}
    assert runtime.parent == batch.span
    assert batch.links == (infer.span,)
    assert spans["execute"].links == (batch.span,)
    assert infer.attributes["batchwright.rows"] == batch.attributes["batchwright.rows"] == 1
    assert took_s(spans) == (wanted, wanted)
    check_times(before, spans, after)


def took_s(spans: dict[str, Received]) -> tuple[float, float]:
    """What was predicted for the batch, and what it took."""
    predicted = spans["batch"].attributes["batchwright.predicted_seconds"]
    return predicted, spans["runtime"].attributes["batchwright.device_seconds"]


def check_times(before: int, spans: dict[str, Received], after: int) -> None:
    """Each within its parent, one after the other; 2 ms for the clocks."""
    slack = 2_000_000
    infer, queue, execute, runtime = (spans[name] for name in ("infer m", "queue", "execute", "runtime"))
    times = [before, infer.start, queue.start, queue.end, execute.start, runtime.start, runtime.end, execute.end]
    assert all(later >= earlier - slack for earlier, later in zip(times, [*times[1:], after], strict=True))
    assert runtime.end - runtime.start >= 39_000_000


def test_a_batch_is_linked_to_all_its_requests(served: Served, collector: Collector) -> None:
    """The first one runs alone, the others meet behind it."""
    assert undisturbed(lambda: most_links(served, collector), lambda most: most >= 3) >= 3


def most_links(served: Served, collector: Collector) -> int:
    """Of a batch, when six ask at once."""
    callers = [caller() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda each: ask(served, each[2]), callers)) == [200] * 6
    traces = {trace for trace, _, _ in callers}
    found = collector.until(
        lambda spans: (
            sum(span.name == "infer m" for span in spans if span.trace in traces) == 6
            and sum(
                span.attributes["batchwright.rows"] for span in spans if span.trace in traces and span.name == "batch"
            )
            == 6
        )
    )
    mine = [span for span in found if span.trace in traces]
    infers = {span.span for span in mine if span.name == "infer m"}
    batches = {span.span: span for span in mine if span.name == "batch"}
    linked = [link for batch in batches.values() for link in batch.links]
    assert sorted(linked) == sorted(infers)
    assert {link for span in mine if span.name == "execute" for link in span.links} == set(batches)
    return max(len(batch.links) for batch in batches.values())


def test_grpc_callers_are_followed_too(served: Served, collector: Collector) -> None:
    trace, parent, header = caller()
    message = pb.ModelInferRequest(
        model_name="m",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 8])],
        raw_input_contents=[np.ones(8, np.float32).tobytes()],
    )
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc}") as channel:
        GRPCInferenceServiceStub(channel).ModelInfer(message, metadata=(("traceparent", header),), timeout=60)
    spans = collector.of_trace(trace, *TREE)
    assert spans["infer m"].parent == parent
    assert spans["infer m"].attributes["rpc.system"] == "grpc"


@pytest.mark.parametrize(("body", "error"), [(BAD, "BadInput"), (b"no JSON", "BadInput")])
def test_a_refused_request_is_a_failed_span(served: Served, collector: Collector, body: bytes, error: str) -> None:
    trace, _, header = caller()
    assert ask(served, header, body) == 400
    spans = collector.of_trace(trace, "infer m")
    assert spans["infer m"].failed
    assert spans["infer m"].attributes["error.type"] == error
    assert "batch" not in spans


def test_a_caller_that_does_not_sample_is_not_traced(served: Served, collector: Collector) -> None:
    hidden, _, silent = caller("00")
    assert ask(served, silent) == 200
    seen, _, header = caller()
    assert ask(served, header) == 200
    collector.of_trace(seen, *TREE)
    assert not [span for span in collector.spans if span.trace == hidden]


@pytest.mark.parametrize("header", ["", "nonsense", "00-0-0-00", "ff" * 30])
def test_a_broken_traceparent_begins_a_trace_of_its_own(served: Served, collector: Collector, header: str) -> None:
    count = sum(span.name == "infer m" for span in collector.spans)
    assert ask(served, header) == 200
    collector.until(lambda spans: sum(span.name == "infer m" for span in spans) > count)


def test_serving_goes_on_without_a_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with serving(tmp_path, manifest("alone", [emulated_model("m", 1)])) as served:
        assert [ask(served, caller()[2]) for _ in range(20)] == [200] * 20
        assert served.stop() < 8


def test_without_an_endpoint_nothing_of_it_is_imported() -> None:
    script = "import sys, batchwright_worker.sidecar.process; print([m for m in sys.modules if 'opentelemetry' in m])"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_metrics_arrive_with_the_names_of_the_page(served: Served, collector: Collector) -> None:
    assert ask(served, caller()[2]) == 200
    counted = collector.until_metric("nv_inference_request_success", lambda each: points(each)["m"] >= 1)
    assert counted.sum.is_monotonic
    found = collector.until_metrics("batchwright_batch_size", "nv_inference_pending_request_count")
    assert points(found["batchwright_batch_size"])["m"] >= 1
    assert "traced" in collector.services
    page = served.get("/metrics")[2].decode()
    assert not [name for name in found if name not in page]


def points(metric: Any) -> dict[str, float]:
    """By model."""
    kind = metric.sum if metric.HasField("sum") else metric.gauge
    named = ({each.key: each.value.string_value for each in point.attributes} for point in kind.data_points)
    return {
        labels["model"]: point.as_double or point.as_int for labels, point in zip(named, kind.data_points, strict=True)
    }
