"""Figures of the operator's bench: rates of moments, medians of rounds, ratios."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from e2e.bench.api_client import per_second, show

START = datetime(2026, 11, 30, tzinfo=UTC)


def test_a_rate_counts_what_followed_the_first() -> None:
    assert per_second([START + timedelta(milliseconds=10 * number) for number in range(11)]) == pytest.approx(100)


def test_one_moment_has_no_rate() -> None:
    assert math.isnan(per_second([START]))


def test_medians_and_their_ratio_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show(
        [{"before": {"gates/s": before}, "now": {"gates/s": now}} for before, now in ((90, 80), (100, 120), (110, 900))]
    )
    assert "| gates/s | 100.00 | 120.00 | 1.20 |" in capsys.readouterr().out


def test_without_a_before_there_is_no_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"now": {"gates/s": 80.0}}])
    assert "| gates/s | 80.00 | - |" in capsys.readouterr().out
