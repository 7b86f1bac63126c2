"""The latency target over all replicas, against the requests themselves."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.deployments.latency import target_met
from batchwright_worker.api.messages import LATENCY_BOUNDS_MS, ModelState
from tests.deployments.deployment_objects import histogram, model_state

requests = st.lists(st.floats(0.5, 30_000), min_size=1, max_size=100)


def p95(latencies: list[float]) -> float:
    return sorted(latencies)[ceil(0.95 * len(latencies)) - 1]


def said(latencies: list[float], target_ms: float) -> ModelState:
    met = p95(latencies) <= target_ms
    return model_state(latency_counts=histogram(*latencies), latency_target_met=met)


@given(st.lists(requests, min_size=1, max_size=5), st.floats(1, 30_000), st.sampled_from([None, True, False]))
def test_the_answer_is_that_of_all_requests_but_within_the_bucket_of_the_target(
    replicas: list[list[float]], target_ms: float, before: bool | None
) -> None:
    exact = p95([each for replica in replicas for each in replica])
    found = target_met([said(each, target_ms) for each in replicas], target_ms, before=before)
    bounds = [0.0, *LATENCY_BOUNDS_MS, float("inf")]
    lower = max(bound for bound in bounds if bound < exact)
    upper = min(bound for bound in bounds if bound >= exact)
    if not lower <= target_ms <= upper:
        assert found is (exact <= target_ms)
    else:
        assert found in (exact <= target_ms, bool(before))


def test_one_slow_replica_of_many_misses_nothing() -> None:
    quick = [said([10.0] * 500, 100) for _ in range(9)]
    assert target_met([*quick, said([900.0] * 100, 100)], 100, before=None) is True
    assert target_met([*quick, said([900.0] * 400, 100)], 100, before=None) is False


@pytest.mark.parametrize("before", [None, True, False])
def test_a_single_replica_is_taken_at_its_word(before: bool | None) -> None:
    assert target_met([model_state(latency_target_met=True)], 100, before=before) is True
    assert target_met([model_state(latency_target_met=False)], 100, before=before) is False
    assert target_met([model_state()], 100, before=before) is None


def test_within_the_bucket_of_the_target_the_last_answer_stands() -> None:
    states = [said([10.0] * 90 + [99.0] * 10, 100), said([10.0] * 90 + [101.0] * 10, 100)]
    assert [target_met(states, 100, before=before) for before in (None, True, False)] == [False, True, False]
