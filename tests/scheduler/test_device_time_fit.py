"""The online fit of device time: lines, curves that are no line, outliers, jumps."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.scheduler.batch_size.device_time import DeviceTime, fit


def line(a: float, b: float, sizes: list[int]) -> DeviceTime:
    times = DeviceTime()
    for n in sizes:
        times.observe(n, a + b * n)
    return times


@given(st.floats(0.0005, 0.1), st.floats(0.0001, 0.01), st.lists(st.integers(1, 64), min_size=30, max_size=60))
def test_a_line_is_found_whatever_the_sizes(a: float, b: float, sizes: list[int]) -> None:
    curve = line(a, b, [*sizes, 1, 64]).curve
    for n in (1, 16, 64):
        assert curve.seconds(n) == pytest.approx(a + b * n, rel=0.3)
    if len({*sizes[-20:]}) > 3:
        assert curve.seconds(32) == pytest.approx(a + b * 32, rel=0.02)


def test_a_fifth_of_outliers_does_not_move_it() -> None:
    generator = random.Random(5)
    times = DeviceTime()
    for _ in range(60):
        n = generator.randint(1, 32)
        slow = 6 if generator.random() < 0.2 else 1
        times.observe(n, (0.010 + 0.002 * n) * slow)
    assert times.curve.seconds(20) == pytest.approx(0.050, rel=0.1)


def test_a_jump_is_followed_within_eight_batches() -> None:
    times = line(0.010, 0.002, [4, 8, 12, 16, 20] * 8)
    for n in [20, 16, 20, 12, 20, 16, 18, 20]:
        times.observe(n, 2 * (0.010 + 0.002 * n))
    assert times.curve.seconds(20) == pytest.approx(0.100, rel=0.05)


def test_what_was_measured_is_remembered_when_only_one_size_runs() -> None:
    times = line(0.010, 0.002, [1, 8, 16, 32] * 4 + [20] * 300)
    assert times.curve.seconds(1) == pytest.approx(0.012, rel=0.01)
    assert times.curve.seconds(32) == pytest.approx(0.074, rel=0.01)
    assert len(times.samples) < 60


def test_a_knee_is_not_forgotten_while_batches_stay_below_it() -> None:
    times = DeviceTime()
    for rows, seconds in [*OCR_320.items()] * 4 + [(6, OCR_320[6])] * 300:
        times.observe(rows, seconds)
    assert times.curve.knee(32) == 6


def test_one_size_is_no_slope_but_a_prediction() -> None:
    curve = line(0.010, 0.002, [8] * 5).curve
    assert curve.seconds(8) == pytest.approx(0.026)
    assert 0.026 < curve.seconds(16) < 0.052


OCR_960 = {1: 0.0210, 6: 0.165, 16: 0.640, 32: 1.456}
"""serving.md, 4: ms per row 21.0 / 27.5 / 40.0 / 45.5: bigger batches are slower per row."""
OCR_320 = {1: 0.0110, 6: 0.0462, 16: 0.1248, 32: 0.304}
"""11.0 / 7.7 / 7.8 / 9.5 per row."""


@pytest.mark.parametrize(("table", "knee"), [(OCR_960, 1), (OCR_320, 6)])
def test_the_knee_is_where_rows_per_second_stop_rising(table: dict[int, float], knee: int) -> None:
    curve = fit((n, seconds) for n, seconds in table.items() for _ in range(4))
    assert curve.knee(32) == knee


def test_a_line_has_no_knee_and_an_unseen_size_is_allowed() -> None:
    assert line(0.010, 0.002, [1, 4, 8, 16] * 3).curve.knee(64) == 64


@given(st.integers(1, 60), st.floats(0.001, 0.2))
def test_largest_within_is_the_largest(most: int, limit: float) -> None:
    for curve in (line(0.010, 0.002, [1, 8, 32] * 4).curve, fit((n, s) for n, s in OCR_320.items() for _ in range(3))):
        best = curve.largest_within(limit, most)
        assert best == 0 or curve.seconds(best) <= limit + 1e-9
        assert best == most or curve.seconds(best + 1) > limit - 1e-9


def test_nothing_seen_predicts_nothing() -> None:
    curve = DeviceTime().curve
    assert not curve.known
    assert curve.seconds(8) == 0
    assert curve.knee(32) == 32


@pytest.mark.parametrize(
    ("at_32", "knee"),
    [(0.290, 8), (0.230, 32)],
    ids=["measurably slower: the best size", "no slower: as the line says"],
)
def test_on_a_line_a_measurably_slower_size_is_not_asked_for(at_32: float, knee: int) -> None:
    """MiniLM, 32 tokens, one CPU: nearly a line, yet batches of 32 serve 4 % fewer rows per second than those of 8."""
    seconds = {1: 0.0088, 8: 0.0570, 16: 0.1148, 32: at_32}
    curve = fit([(rows, seconds[rows]) for rows in seconds for _ in range(3)])
    assert curve.linear
    assert curve.knee(32) == knee
