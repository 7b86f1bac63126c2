"""Rate, time to the end and deadline while a job runs."""

from __future__ import annotations

from batchwright_worker.local.progress_display import Counts, Rate, line


def test_the_rate_is_that_of_the_last_minute() -> None:
    rate = Rate()
    assert rate.per_second(0, 0.0) is None
    assert rate.per_second(100, 10.0) == 10.0
    rate.per_second(200, 60.0)
    assert rate.per_second(800, 120.0) == 10.0  # since 60 s; the sample at 10 s is too old


def test_a_line_tells_rate_rest_and_what_is_wrong() -> None:
    counts = Counts(done=200, failed=3, waiting_for=["emu"], left_s=30.0)
    assert line("j", 1000, counts, 10.0) == (
        "j: 200 of 1000 items (20 %), 10 items/s, 1 min 20 s left, 3 failed, waiting for emu, "
        "activeDeadlineSeconds ends in 30 s, before the job"
    )
    assert line("j", 1000, Counts(done=0, failed=0), None) == "j: 0 of 1000 items (0 %)"


def test_a_deadline_that_will_be_kept_is_not_told() -> None:
    assert "Deadline" not in line("j", 1000, Counts(done=200, failed=0, left_s=81.0), 10.0)
