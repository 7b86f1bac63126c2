"""What the bench reads from a run: every request counts from its schedule, and misses are misses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from e2e.bench.client.connections import GIVEN_UP, WRONG
from e2e.bench.device import Device
from e2e.bench.report import Bar
from e2e.bench.run import Run, device_truth, intervals, recovery_s, together


def run_of(
    latencies_ms: Sequence[float], statuses: Sequence[int] = (), *, every_s: float = 0.01, sent_late_ms: float = 0
) -> Run:
    """One request each `every_s` from 100 s on."""
    count = len(latencies_ms)
    scheduled = 100.0005 + every_s * np.arange(count)
    latency = np.array(latencies_ms, float) / 1e3
    return Run(
        rate=1 / every_s,
        seconds=every_s * count,
        scheduled_s=scheduled,
        sent_s=scheduled + sent_late_ms / 1e3,
        done_s=scheduled + latency,
        latency_s=latency,
        status=np.array(statuses or [200] * count),
        index=np.zeros(count, int),
    )


def test_refusals_failures_and_late_answers_are_misses() -> None:
    run = run_of([50, 150, 1, 1, 1, 20], [200, 200, 503, GIVEN_UP, WRONG, 200])
    assert run.in_time_share(0.1) == pytest.approx(2 / 6)
    assert (run.refused, run.failed) == (1, 2)
    assert run.in_time_rate(0.1) == pytest.approx(2 / 0.06)


def test_percentiles_over_all_are_infinite_where_answers_are_missing() -> None:
    run = run_of([10] * 98 + [1, 1], [200] * 98 + [503, 503])
    assert run.latency_ms(0.5) == pytest.approx(10)
    assert math.isinf(run.latency_ms(0.99))
    assert run.answered_latency_ms(0.99) == pytest.approx(10)


def test_a_generator_that_sends_late_makes_a_run_invalid() -> None:
    assert run_of([10] * 100, sent_late_ms=1).valid
    assert not run_of([10] * 100, sent_late_ms=3).valid


def test_intervals_and_recovery_go_by_the_schedule() -> None:
    run = run_of([10] * 10 + [500] * 15 + [10] * 5, [200] * 20 + [503] * 5 + [200] * 5)
    first, second, third = intervals(run, 100.0, 100.3, 0.1)
    assert (first.in_time, first.late, first.refused) == (10, 0, 0)
    assert (second.in_time, second.late, second.refused) == (0, 10, 0)
    assert (third.in_time, third.late, third.refused) == (5, 0, 5)
    assert recovery_s(run, 100.095, 0.1) == pytest.approx(0.1455)
    assert recovery_s(run, 100.245, 0.1) == 0


def test_a_rate_counts_answers_when_they_came() -> None:
    run = run_of([50] * 10 + [200] * 10)
    assert run.good_rate_between(100.0, 100.1, 0.1) == pytest.approx(50)
    assert run.good_rate_between(100.1, 100.2, 0.1) == pytest.approx(50)


def test_loads_at_the_same_time_count_as_one() -> None:
    both = together([run_of([10] * 10), run_of([200] * 10)])
    assert (both.count, both.rate) == (20, 200)
    assert both.in_time_share(0.1) == 0.5


@pytest.mark.parametrize(("latency_ms", "every_s", "holds"), [(13, 0.01, True), (11, 0.01, False), (13, 0.002, False)])
def test_a_device_that_is_too_fast_is_found_out(latency_ms: float, every_s: float, holds: bool) -> None:
    run = run_of([latency_ms] * 1000, every_s=every_s)
    assert device_truth(run, Device()).holds is holds


def test_a_bar_is_met_on_the_right_side() -> None:
    assert Bar(name="share", measured=99.2, wanted=99, at_least=True).passed
    assert not Bar(name="p50", measured=14.1, wanted=14, at_least=False).passed
