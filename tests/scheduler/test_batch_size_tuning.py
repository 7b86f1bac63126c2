"""Methods A6 to A8: causes of a proposal, the trend guard, the stop rule; one window at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.scheduler.batch_size.controller import decide
from batchwright_worker.scheduler.batch_size.device_time import UNKNOWN, Curve, fit
from batchwright_worker.scheduler.batch_size.fitted_size import first_size, fitted_size
from batchwright_worker.scheduler.batch_size.tuning import TunerState, TuningConfig
from batchwright_worker.scheduler.window_counts import WindowFacts

LINE = fit((n, 0.010 + 0.002 * n) for n in (1, 2, 4, 8, 16, 32) for _ in range(3))
KNEE_AT_6 = fit((n, s) for n, s in {1: 0.011, 6: 0.0462, 16: 0.1248, 32: 0.304}.items() for _ in range(3))
STEPS = TuningConfig(latency_s=0.1, controller="MannKendall")


def window(**facts: float) -> WindowFacts:
    base: dict[str, Any] = {
        "seconds": 1.0,
        "requests": 100,
        "batches": 40,
        "running": False,
        "latency_s": 0.05,
        "batch_s": 0.02,
        "mean_rows": 5.0,
        "full_ratio": 0.0,
        "busy": 0.5,
        "offered": 100.0,
        "served": 100.0,
    }
    return WindowFacts(**{**base, **facts})


ROWS_WAIT = window(latency_s=0.3, batch_s=0.02, mean_rows=5, full_ratio=1, busy=1, offered=300, served=250)
SLOW = window(latency_s=0.13, batch_s=0.09, mean_rows=40, busy=0.9)


@pytest.mark.parametrize(
    ("seen", "size", "proposed", "reason"),
    [
        (ROWS_WAIT, 5, 6, "RowsWaiting"),
        (SLOW, 40, 39, "BatchTooSlow"),
        (window(), 5, 5, "TargetMet"),
        (window(mean_rows=5, full_ratio=1, busy=1), 5, 6, "LatencyBelowTarget"),
        (window(mean_rows=5, full_ratio=0, busy=0.9), 5, 6, "LatencyBelowTarget"),
        (window(mean_rows=5, full_ratio=0, busy=0.5), 5, 5, "TargetMet"),
        (window(latency_s=0.3, mean_rows=64, batch_s=0.02), 64, 64, "AtMaximum"),
        (window(latency_s=0.3, mean_rows=1, batch_s=0.2), 1, 1, "AtMinimum"),
        (window(latency_s=0.2, batch_s=0.09, mean_rows=32, offered=900), 32, 32, "Overloaded"),
        (window(requests=0, batches=0, latency_s=0), 5, 5, "NoRequests"),
        (window(requests=0, batches=0, latency_s=0.3, running=True), 5, 5, "NothingEnded"),
    ],
)
def test_a_proposal_has_a_cause(seen: WindowFacts, size: int, proposed: int, reason: str) -> None:
    decision = decide(replace(STEPS, max_size=64), TunerState(size=size), seen, LINE)
    assert (decision.size, decision.reason) == (proposed, reason)
    assert decision.message


def test_a_missed_throughput_wants_a_larger_size() -> None:
    config = TuningConfig(throughput=400, controller="MannKendall")
    decision = decide(config, TunerState(size=5), window(offered=500, served=250, mean_rows=5), LINE)
    assert (decision.size, decision.reason, decision.target_met) == (6, "ThroughputBelowTarget", False)


def test_a_throughput_that_nobody_offers_is_not_missed() -> None:
    config = TuningConfig(throughput=400, controller="MannKendall")
    decision = decide(config, TunerState(size=5), window(offered=100, served=100), LINE)
    assert (decision.size, decision.reason, decision.target_met) == (5, "TargetMet", True)


def test_a_larger_size_is_not_wanted_where_it_is_no_faster() -> None:
    decision = decide(STEPS, TunerState(size=6), ROWS_WAIT, KNEE_AT_6)
    assert (decision.size, decision.reason) == (6, "NoFasterBeyond")
    assert "beyond 6 rows" in decision.message


def test_beyond_the_knee_the_size_goes_back_to_it() -> None:
    decision = decide(STEPS, TunerState(size=12), ROWS_WAIT, KNEE_AT_6)
    assert (decision.size, decision.reason) == (6, "NoFasterBeyond")


def climb(tuner: TunerState, seen: WindowFacts, windows: int, curve: Curve = LINE) -> tuple[TunerState, list[str]]:
    reasons: list[str] = []
    for _ in range(windows):
        decision = decide(replace(STEPS, max_size=64), tuner, seen, curve)
        tuner = decision.tuner
        reasons.append(decision.reason)
    return tuner, reasons


def test_one_noisy_window_costs_a_pause_and_no_more() -> None:
    tuner, _ = climb(TunerState(size=10), ROWS_WAIT, 6)
    assert tuner.size == 16
    noisy = decide(STEPS, tuner, SLOW, LINE)
    assert (noisy.size, noisy.proposed, noisy.reason) == (16, 15, "TrendDisagrees")
    assert noisy.trend.z > 0
    after, reasons = climb(noisy.tuner, ROWS_WAIT, 1)
    assert (after.size, reasons) == (17, ["RowsWaiting"])


def test_a_lasting_change_turns_the_trend_within_its_length() -> None:
    tuner, _ = climb(TunerState(size=30), ROWS_WAIT, 6)
    highest = tuner.size
    tuner, reasons = climb(tuner, SLOW, STEPS.trend_length)
    assert reasons[0] == "TrendDisagrees"
    assert "BatchTooSlow" in reasons
    assert tuner.size < highest


def test_a_met_target_is_held_through_one_bad_window() -> None:
    settled = decide(STEPS, TunerState(size=8), window(), LINE).tuner
    assert not settled.searching
    once = decide(STEPS, settled, ROWS_WAIT_AT_SAME_LOAD, LINE)
    assert (once.size, once.reason) == (8, "TargetMissedOnce")
    good = decide(STEPS, once.tuner, window(), LINE)
    assert (good.size, good.reason) == (8, "TargetMet")
    twice = decide(STEPS, once.tuner, ROWS_WAIT_AT_SAME_LOAD, LINE)
    assert (twice.size, twice.reason) == (9, "RowsWaiting")


ROWS_WAIT_AT_SAME_LOAD = replace(ROWS_WAIT, offered=100, served=100)


def test_a_change_of_load_starts_the_search_again() -> None:
    settled = decide(STEPS, TunerState(size=8), window(offered=100), LINE).tuner
    decision = decide(STEPS, settled, replace(ROWS_WAIT, offered=400), LINE)
    assert (decision.size, decision.reason) == (9, "RowsWaiting")
    assert "the load has changed" in decision.message


def test_a_change_of_the_models_speed_starts_the_search_again() -> None:
    settled = decide(STEPS, TunerState(size=20), window(), LINE).tuner
    slower = fit((n, 2 * (0.010 + 0.002 * n)) for n in (1, 8, 20) for _ in range(3))
    decision = decide(STEPS, settled, replace(SLOW, offered=100), slower)
    assert (decision.size, decision.reason) == (19, "BatchTooSlow")
    assert "speed has changed" in decision.message


def test_poisson_noise_of_a_small_load_is_no_change() -> None:
    settled = decide(STEPS, TunerState(size=8), window(offered=20), LINE).tuner
    assert decide(STEPS, settled, window(offered=30), LINE).tuner.searching is False


@pytest.mark.parametrize(
    ("config", "curve", "size"),
    [
        (TuningConfig(latency_s=0.1, max_size=64), LINE, 20),
        (TuningConfig(latency_s=0.2, max_size=64), LINE, 45),
        (TuningConfig(latency_s=0.1, max_size=8), LINE, 8),
        (TuningConfig(max_size=32), KNEE_AT_6, 6),
        (TuningConfig(latency_s=0.001), LINE, 1),
        (TuningConfig(latency_s=10, max_size=256), LINE, 256),
        (TuningConfig(latency_s=10, max_size=256, controller="MannKendall"), LINE, 64),
    ],
)
def test_the_fitted_size_is_the_largest_within_half_the_target_that_is_faster(
    config: TuningConfig, curve: Curve, size: int
) -> None:
    assert fitted_size(config, curve) == size


def test_the_fitted_controller_jumps() -> None:
    decision = decide(replace(STEPS, controller="Fitted"), TunerState(size=5), ROWS_WAIT, LINE)
    assert decision.size == 20


def test_the_first_size_is_the_users_else_the_predicted_else_the_smallest() -> None:
    config = TuningConfig(latency_s=0.1, min_size=2, max_size=64)
    assert first_size(config, 5, LINE).size == 5
    assert first_size(config, None, LINE).size == 20
    assert first_size(config, None, UNKNOWN).size == 2


windows = st.builds(
    WindowFacts,
    seconds=st.just(1.0),
    requests=st.integers(0, 500),
    batches=st.integers(0, 500),
    running=st.booleans(),
    latency_s=st.floats(0, 1),
    batch_s=st.floats(0, 0.5),
    mean_rows=st.floats(1, 64),
    full_ratio=st.floats(0, 1),
    busy=st.floats(0, 1),
    offered=st.floats(0, 2000),
    served=st.floats(0, 500),
)


@given(
    st.sampled_from(["Auto", "MannKendall", "Fitted", "Literal"]),
    st.lists(windows, max_size=30),
    st.integers(1, 64),
    st.integers(1, 8),
    st.sampled_from([LINE, KNEE_AT_6, UNKNOWN]),
)
def test_the_size_stays_within_its_bounds_and_every_decision_says_why(
    controller: Any, seen: list[WindowFacts], start: int, step: int, curve: Curve
) -> None:
    config = TuningConfig(min_size=2, max_size=48, step=step, latency_s=0.1, controller=controller)
    tuner = first_size(config, start, curve)
    for one in seen:
        decision = decide(config, tuner, one, curve)
        assert config.min_size <= decision.size <= config.max_size
        assert decision.message
        assert decision.reason[0].isupper()
        if one.requests == 0 and one.batches == 0:
            assert decision.tuner == tuner
        if decision.changed and len(decision.tuner.proposals) >= 4:
            assert decision.trend.z * (decision.size - decision.previous) > 0
        tuner = decision.tuner
