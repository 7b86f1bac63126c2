"""Percentiles of a window by nearest rank, in whole numbers."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.scheduler.window_counts import percentile

SHARES = [Fraction(1, 2), Fraction(9, 10), Fraction(19, 20), Fraction(99, 100), Fraction(999, 1000)]


@pytest.mark.parametrize("share", SHARES)
def test_the_rank_is_exact_for_every_number_of_values(share: Fraction) -> None:
    for count in [*range(1, 500), 1000, 2000, 4000, 6000]:
        assert percentile([float(value) for value in range(count)], float(share)) == ceil(share * count) - 1


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.sampled_from(SHARES))
def test_it_is_the_smallest_value_that_enough_do_not_exceed(values: list[float], share: Fraction) -> None:
    found = percentile(values, float(share))
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_of_nothing() -> None:
    assert percentile([], 0.95) == 0.0
