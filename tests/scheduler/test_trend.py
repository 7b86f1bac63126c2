"""Method A7 against a literal reading of its formulas, and against scipy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from batchwright_worker.mann_kendall import mann_kendall

series = st.lists(st.integers(1, 8), min_size=2, max_size=30)


def by_the_book(xs: list[int]) -> tuple[int, float, float]:
    n, s = len(xs), 0
    variance: float
    for i in range(n):
        for j in range(i + 1, n):
            s += 1 if xs[j] > xs[i] else -1 if xs[j] < xs[i] else 0
    variance = n * (n - 1) * (2 * n + 5)
    for value in set(xs):
        t = xs.count(value)
        variance -= t * (t - 1) * (2 * t + 5)
    variance /= 18
    if s == 0 or variance == 0:
        return s, variance, 0.0
    return s, variance, (s - 1 if s > 0 else s + 1) / math.sqrt(variance)


@given(series)
def test_it_is_what_the_method_says(xs: list[int]) -> None:
    trend = mann_kendall(xs)
    s, variance, z = by_the_book(xs)
    assert trend.s == s
    assert trend.variance == pytest.approx(variance)
    assert trend.z == pytest.approx(z)


@given(series)
def test_s_is_kendalls_numerator(xs: list[int]) -> None:
    tau = stats.kendalltau(range(len(xs)), xs, variant="c").statistic
    m, n = len(set(xs)), len(xs)
    if m > 1:
        m = min(m, n)
        assert mann_kendall(xs).s == pytest.approx(tau * n * n * (m - 1) / m / 2)


@given(series)
def test_a_reversed_series_has_the_opposite_trend(xs: list[int]) -> None:
    assert mann_kendall(xs[::-1]).z == pytest.approx(-mann_kendall(xs).z)


@pytest.mark.parametrize(
    ("xs", "z", "direction"),
    [
        ([], 0, "Flat"),
        ([3], 0, "Flat"),
        ([4, 4, 4, 4], 0, "Flat"),
        ([1, 2, 3, 4], 5 / math.sqrt(4 * 3 * 13 / 18), "Rising"),
        ([4, 3, 2, 1], -5 / math.sqrt(4 * 3 * 13 / 18), "Falling"),
        ([1, 2], 0, "Flat"),
        ([1, 3, 2, 4], 3 / math.sqrt(4 * 3 * 13 / 18), "Rising"),
    ],
)
def test_known_series(xs: list[int], z: float, direction: str) -> None:
    assert mann_kendall(xs).z == pytest.approx(z)
    assert mann_kendall(xs).direction == direction
