"""What `make generate` writes beside the CRDs is as it would write it now."""

from __future__ import annotations

from e2e.release import boards, chart


def test_the_chart_is_that_of_the_manifests_and_settings() -> None:
    assert list(chart.GENERATED.differences()) == [], "run make generate"


def test_the_boards_are_as_written_in_python() -> None:
    assert list(boards.GENERATED.differences()) == [], "run make generate"
