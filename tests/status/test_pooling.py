"""Percentiles of pooled histograms, against the latencies that they were made of."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.status.percentiles import percentile_ms, pool
from batchwright_worker.api.messages import LATENCY_BOUNDS_MS
from tests.deployments.deployment_objects import histogram

latencies = st.lists(st.floats(0.01, 40_000), min_size=1, max_size=200)


@given(st.lists(latencies, min_size=1, max_size=5), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_that_of_all_requests_within_a_bucket(replicas: list[list[float]], share: float) -> None:
    together = sorted(each for replica in replicas for each in replica)
    exact = together[max(1, ceil(share * len(together))) - 1]
    found = percentile_ms(pool(histogram(*replica) for replica in replicas), share)
    assert found is not None
    assert exact / 1.2 - 1 <= found <= exact * 1.2 + 1.5


def test_pooling_is_not_a_mean_of_percentiles() -> None:
    quick, slow = histogram(*[10.0] * 99), histogram(1000.0)
    assert percentile_ms(pool([quick, slow]), 0.95) in range(8, 13)
    mean = sum(percentile_ms(each, 0.95) or 0 for each in (quick, slow)) / 2
    assert mean > 400


def test_nothing_measured_is_no_percentile() -> None:
    assert percentile_ms(pool([]), 0.95) is None
    assert percentile_ms(pool([[], [0, 0]]), 0.95) is None


def test_overflow_is_at_least_the_last_bound() -> None:
    assert percentile_ms(histogram(1e9), 0.5) == ceil(LATENCY_BOUNDS_MS[-1])


@pytest.mark.parametrize("odd", [[3], [0] * 500, [-4, 1]])
def test_a_histogram_of_another_length_is_no_trouble(odd: list[int]) -> None:
    assert len(pool([odd, histogram(5.0)])) == len(LATENCY_BOUNDS_MS) + 1
