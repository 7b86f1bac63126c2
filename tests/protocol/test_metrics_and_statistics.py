"""Metrics under Triton's names are counters, and agree with the statistics calls; no duration is left at zero."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.protocol.serving import Served, infer_linear

COUNTERS = (
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
)


def families(served: Served) -> dict[str, Any]:
    _, _, text = served.get("/metrics")
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def value(served: Served, name: str, model: str = "linear", **labels: str) -> float:
    wanted = {"model": model, **labels}
    found = [
        sample.value
        for family in families(served).values()
        for sample in family.samples
        if sample.name.removesuffix("_total") == name and wanted.items() <= sample.labels.items()
    ]
    assert len(found) == 1, f"{name} {wanted}: {found}"
    return found[0]


def statistics(served: Served, model: str = "linear") -> dict[str, Any]:
    [found] = json.loads(served.get(f"/v2/models/{model}/stats")[2])["model_stats"]
    return found


@pytest.mark.parametrize("name", COUNTERS)
def test_tritons_families_are_counters_under_tritons_own_names(served: Served, name: str) -> None:
    _, _, text = served.get("/metrics")
    assert f"# TYPE {name} counter\n" in text.decode()
    assert f'\n{name}{{model="linear",version="1"' in text.decode()


def test_no_family_is_untyped(served: Served) -> None:
    assert {family.type for family in families(served).values()} <= {"counter", "gauge", "histogram"}


def test_every_part_of_a_request_takes_time_and_the_parts_make_the_whole(served: Served) -> None:
    before = statistics(served)["inference_stats"]
    for _ in range(20):
        infer_linear(served, np.ones((7, 16), np.float32))
    after = statistics(served)["inference_stats"]
    spent = {name: after[name]["ns"] - before[name]["ns"] for name in after}
    counts = {name: after[name]["count"] - before[name]["count"] for name in after}
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert [counts[name] for name in ("success", *parts)] == [20] * 5
    assert all(spent[name] > 0 for name in parts)
    assert sum(spent[name] for name in parts) == pytest.approx(spent["success"], rel=1e-3)


def test_batches_of_a_size_tell_all_three_times(served: Served) -> None:
    def rows() -> int:
        return sum(entry["batch_size"] * entry["compute_infer"]["count"] for entry in statistics(served)["batch_stats"])

    before = rows()
    infer_linear(served, np.ones((9, 16), np.float32))  # in one batch or several: the tuned size decides
    assert rows() == before + 9
    for entry in statistics(served)["batch_stats"]:
        times = [entry[name] for name in ("compute_input", "compute_infer", "compute_output")]
        assert all(time["count"] >= 1 and time["ns"] > 0 for time in times)


def test_metrics_and_statistics_tell_the_same(served: Served) -> None:
    infer_linear(served, np.ones((3, 16), np.float32))
    found = statistics(served)
    assert value(served, "nv_inference_count") == found["inference_count"]
    assert value(served, "nv_inference_exec_count") == found["execution_count"]
    for metric, name in (("request", "success"), ("queue", "queue"), ("compute_output", "compute_output")):
        microseconds = value(served, f"nv_inference_{metric}_duration_us")
        assert microseconds == found["inference_stats"][name]["ns"] // 1000


def test_failures_are_counted_by_tritons_reasons(served: Served) -> None:
    def counted(reason: str) -> float:
        return value(served, "nv_inference_request_failure", reason=reason)

    before = {reason: counted(reason) for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER")}
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}
    assert served.get("/v2/models/linear/infer", json.dumps({"inputs": [tensor]}).encode())[0] == 400
    hopeless = {"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.0] * 16}
    body = json.dumps({"inputs": [hopeless], "parameters": {"timeout": 1}}).encode()
    assert served.get("/v2/models/linear/infer", body)[0] == 504
    assert counted("OTHER") == before["OTHER"] + 1
    assert counted("REJECTED") == before["REJECTED"] + 1
    assert counted("BACKEND") == before["BACKEND"]


def test_memory_is_told_per_device(served: Served) -> None:
    [usage] = statistics(served)["memory_usage"]
    assert usage["type"] == "CPU"
    assert usage["byte_size"] >= 0


def test_how_the_batch_size_is_decided_is_told(served: Served) -> None:
    infer_linear(served, np.ones((2, 16), np.float32))
    assert value(served, "batchwright_batch_size_proposed") >= 1
    assert value(served, "batchwright_batch_rows_limit") >= 1
    assert value(served, "batchwright_batch_bound") == 1
    assert value(served, "batchwright_batch_size_searching") in (0, 1)
    assert value(served, "batchwright_throughput_possible") > 0
    assert value(served, "batchwright_fit_fixed_seconds") >= 0
    assert "batchwright_latency_target_met" not in {
        sample.name for family in families(served).values() for sample in family.samples
    }, "without a target there is nothing to meet"
