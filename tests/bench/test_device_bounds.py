"""The bound and the ideal rule of the bench are those of serving.md."""

from __future__ import annotations

import pytest

from e2e.bench.device import Device, ideal, ideal_rate

DEVICE = Device()


def test_the_ceiling_is_that_of_full_batches() -> None:
    assert DEVICE.rate(16) == pytest.approx(381, abs=0.5)
    assert DEVICE.rate(32) == pytest.approx(432, abs=0.5)


@pytest.mark.parametrize(("rate", "bound"), [(400, 400), (1140, 428), (3800, 432)])
def test_the_bound_under_overload(rate: float, bound: float) -> None:
    assert DEVICE.bound(rate, 0.1) == pytest.approx(bound, rel=0.01)


@pytest.mark.parametrize(
    ("rate", "in_time", "share"), [(345, 343, 0.9927), (400, 377, 0.944), (1140, 424, 0.372), (3800, 433, 0.114)]
)
def test_the_ideal_rule_does_what_the_specification_simulated(rate: float, in_time: float, share: float) -> None:
    good, part = ideal(DEVICE, rate, 0.1, 120, 3)
    assert good == pytest.approx(in_time, rel=0.015)
    assert part == pytest.approx(share, rel=0.015)


def test_the_ideal_rules_limit_is_where_99_of_100_are_in_time() -> None:
    assert 340 <= ideal_rate(DEVICE, 0.1, 0.99, 120) <= 360


def test_a_target_that_full_batches_miss_lowers_the_bound() -> None:
    slow = Device(fixed_ms=2, per_row_ms=8)
    assert slow.largest(1e9, 0.150) == 18
    assert slow.bound(1e9, 0.150) == pytest.approx(18 / 0.146)
