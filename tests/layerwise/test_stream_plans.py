"""Profiles and what is planned from them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.layerwise.core.steps import seconds_of_steps, steps_of_seconds
from batchwright_worker.layerwise.core.values import Layer
from batchwright_worker.layerwise.execution.jobs import UnitRecord
from batchwright_worker.layerwise.execution.planner import UnitPlans
from batchwright_worker.layerwise.memory.pool import UnitReader
from batchwright_worker.layerwise.profiling import profiler
from batchwright_worker.layerwise.profiling.profiler import Effort, measured
from batchwright_worker.layerwise.profiling.profiles import (
    Profile,
    Summary,
    fit_fetch,
    read_profile,
    write_profile,
)
from batchwright_worker.layerwise.tools.recurrence_check import check_recurrence
from batchwright_worker.layerwise.tools.trace_export import trace
from tests.layerwise.test_split_onnx import conv_net, opened


def profile(rows: int, compute: list[float], sizes: list[int]) -> Profile:
    return Profile(
        digest="d", model="m", processor="p", rows=rows, compute_s=compute, bytes=sizes, latency_s=0.001,
        bytes_per_second=1000.0,
    )  # fmt: skip


@given(
    latency=st.floats(0, 0.1),
    bandwidth=st.floats(1e3, 1e10),
    sizes=st.lists(st.integers(1, 1 << 30), min_size=2, max_size=20, unique=True),
)
def test_the_fit_finds_latency_and_bandwidth(latency: float, bandwidth: float, sizes: list[int]) -> None:
    found_latency, found_bandwidth = fit_fetch(sizes, [latency + size / bandwidth for size in sizes])
    for size in sizes:
        assert found_latency + size / found_bandwidth == pytest.approx(latency + size / bandwidth, rel=0.02, abs=1e-6)


def test_one_size_is_all_bandwidth() -> None:
    assert fit_fetch([100, 100], [0.5, 0.5]) == (0.0, 200.0)


def test_compute_is_interpolated_between_sizes_and_resident_units_need_no_fetch() -> None:
    plans = UnitPlans()
    plans.add("m", [profile(4, [0.040], [500]), profile(1, [0.010], [500])])
    assert [plans.layers("m", rows)[0].compute for rows in (1, 2, 4, 8)] == [
        steps_of_seconds(seconds) for seconds in (0.01, 0.02, 0.04, 0.08)
    ]
    assert plans.layers("m", 1)[0].fetch == steps_of_seconds(0.501)
    plans.keep("m", frozenset({0}))
    assert plans.layers("m", 1)[0] == Layer(compute=plans.layers("m", 1)[0].compute, fetch=0, bytes=0)


def record(planned: Layer, compute: float, fetch: float) -> UnitRecord:
    return UnitRecord("m", 0, 0, 1, planned.bytes, 0.0, 1.0, 1.0 + fetch, 2.0, 2.0 + compute, planned, 0, 0.0, fetch)


def test_plans_follow_what_is_measured() -> None:
    plans = UnitPlans()
    plans.add("m", [profile(1, [0.010], [500])])
    for _ in range(200):
        plans.learn(record(plans.layers("m", 1)[0], compute=0.030, fetch=0.25))
    [layer] = plans.layers("m", 1)
    assert seconds_of_steps(layer.compute) == pytest.approx(0.030, rel=0.05)
    assert seconds_of_steps(layer.fetch) == pytest.approx(0.25, rel=0.05)


def test_a_profile_that_is_wrong_by_far_is_corrected_also_for_the_next_load() -> None:
    plans = UnitPlans()
    plans.add("m", [profile(1, [0.955], [500])])
    assert plans.corrected("m") == []
    for _ in range(200):
        plans.learn(record(plans.layers("m", 1)[0], compute=0.032, fetch=0.501))
    assert seconds_of_steps(plans.layers("m", 1)[0].compute) == pytest.approx(0.032, rel=0.1)
    again = UnitPlans()
    again.add("m", plans.corrected("m"))
    assert seconds_of_steps(again.layers("m", 1)[0].compute) == pytest.approx(0.032, rel=0.1)
    assert again.corrected("m") == []


def test_units_of_another_shape_than_measured_are_corrected_each() -> None:
    plans = UnitPlans()
    plans.add("m", [profile(1, [0.010, 0.010], [500, 500])])
    for _ in range(300):
        for position, seconds in enumerate((0.005, 0.015)):
            planned = plans.layers("m", 1)[position]
            plans.learn(record(planned, seconds, 0.501)._replace(position=position))
    found = [seconds_of_steps(layer.compute) for layer in plans.layers("m", 1)]
    assert found == pytest.approx([0.005, 0.015], rel=0.1)


def test_each_size_of_batches_is_corrected_by_its_own() -> None:
    """C9: a GPU takes as long for 1 to 16 rows as for one, then more with each: two measured sizes say nothing of 32,
    and what batches of 32 take says nothing of those of one row."""
    taken = {1: 0.010, 4: 0.010, 32: 0.020, 128: 0.080}
    plans = UnitPlans()
    plans.add("m", [profile(1, [0.010], [500]), profile(4, [0.0101], [500])])
    for turn in range(600):
        rows = (1, 32, 128)[turn % 3]
        planned = plans.layers("m", rows)[0]
        plans.learn(record(planned, taken[rows], 0.501)._replace(rows=rows))
    for rows, seconds in taken.items():
        assert seconds_of_steps(plans.layers("m", rows)[0].compute) == pytest.approx(seconds, rel=0.1), rows


def test_a_new_size_begins_with_what_the_nearest_one_has_learned() -> None:
    plans = UnitPlans()
    plans.add("m", [profile(1, [0.010], [500])])
    for _ in range(200):
        plans.learn(record(plans.layers("m", 1)[0], 0.030, 0.501))
    assert seconds_of_steps(plans.layers("m", 8)[0].compute) == pytest.approx(0.240, rel=0.1)


def test_a_profile_that_something_disturbed_is_measured_anew_unless_any_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = opened(conv_net(tmp_path / "net.onnx"), tmp_path)
    reader = UnitReader(network.folder)
    monkeypatch.setattr(profiler, "MOST_SPREAD", -1.0)
    found = measured(network, reader, 2, "this one", Effort(runs=3, least=3))
    assert found.spread >= 0
    assert measured(network, reader, 2, "this one", Effort(runs=3, least=3, any_profile=True)) == found
    assert measured(network, reader, 2, "this one", Effort(runs=3, least=3)) != found
    write_profile(network.folder, found)
    monkeypatch.setattr(profiler, "MOST_SPREAD", float("inf"))
    assert measured(network, reader, 2, "this one", Effort(runs=3, least=3)) == found
    reader.close()


def test_what_is_measured_waits_for_gaps(tmp_path: Path) -> None:
    network, gaps = opened(conv_net(tmp_path / "net.onnx"), tmp_path), [0]
    reader = UnitReader(network.folder)

    def gap() -> None:
        gaps[0] += 1

    measured(network, reader, 2, "this one", Effort(runs=3, least=3, gap=gap))
    assert gaps[0] == 4 * len(network.index.units)
    reader.close()


def test_a_profile_is_measured_once_per_processor_and_batch_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = opened(conv_net(tmp_path / "net.onnx"), tmp_path)
    reader = UnitReader(network.folder)
    monkeypatch.setattr(profiler, "MOST_SPREAD", float("inf"))  # whatever else this machine does
    first = measured(network, reader, 2, "this one", Effort(runs=20, least=20))
    assert len(first.compute_s) == len(first.bytes) == len(network.index.units)
    assert first.runs >= 20
    assert all(seconds > 0 for seconds in first.compute_s)
    assert first.bytes_per_second > 0
    assert measured(network, reader, 2, "this one", Effort(runs=20, least=20)) == first
    assert read_profile(network.folder, "another one", 2) is None
    assert f"{len(first.bytes)} units" in str(Summary(profile=first))
    reader.close()


def test_a_replay_of_what_ran_as_planned_has_no_error_and_its_trace_has_both_engines() -> None:
    planned = Layer(compute=steps_of_seconds(2.0), fetch=steps_of_seconds(1.0), bytes=3)
    ran = [
        UnitRecord("a", 0, 0, 1, 3, 10.0, 10.0, 11.0, 11.0, 13.0, planned, 0, 0.0, 1.0),
        UnitRecord("b", 1, 0, 1, 3, 10.0, 13.0, 14.0, 14.0, 16.0, planned, 1, 0.0, 1.0),
    ]
    told = check_recurrence(ran, budget_bytes=3)
    assert told.measured_s == told.replayed_s == told.planned_s == 6.0
    assert told.error == told.plan_error == 0.0
    assert check_recurrence(ran, budget_bytes=6).replayed_s == 5.0
    events = [event for event in trace({"run": ran})["traceEvents"] if event["ph"] == "X"]
    assert [(event["tid"], event["ts"], event["dur"]) for event in events] == [
        (2, 1e6, 2e6), (1, 0.0, 1e6), (2, 4e6, 2e6), (1, 3e6, 1e6),
    ]  # fmt: skip


def test_a_size_that_is_learned_of_does_not_disturb_who_looks_through_the_others() -> None:
    """Batches are planned on one thread and measured on another."""
    plans = UnitPlans()
    plans.add("m", [profile(1, [0.010], [500])])
    plans.learn(record(plans.layers("m", 1)[0], compute=0.010, fetch=0.5))
    looked = iter(plans._plans["m"].sizes.items())
    next(looked)
    plans.learn(record(plans.layers("m", 1)[0], compute=0.010, fetch=0.5)._replace(rows=64))
    assert list(looked) == []
    assert len(plans._plans["m"].sizes) == 2


def test_two_models_of_one_file_write_the_same_profile_at_once(tmp_path: Path) -> None:
    """Of one process: neither takes the other's half-written file for its own."""
    known = profile(1, [0.010], [500])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: write_profile(tmp_path, known), range(200)))
    assert read_profile(tmp_path, "p", 1) == known
    assert [path.name for path in tmp_path.iterdir()] == ["profile-p-1.json"]


def test_a_profile_that_cannot_be_kept_fails_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The disk is full, or the folder gone: a model is loaded and unloaded all the same."""
    write_profile(tmp_path / "gone", profile(1, [0.010], [500]))
    assert "is not kept" in caplog.text
