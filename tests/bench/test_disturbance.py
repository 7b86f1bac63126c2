"""How long an event made answers late, and when each model answered again."""

from __future__ import annotations

import math

from e2e.bench.layerwise.disturbance import Answer, Heard, first_answers, judged, late_seconds, percentile


def steady(start: float, end: float, seconds: float) -> list[Answer]:
    return [Answer(start + number * seconds, seconds) for number in range(1, int((end - start) / seconds) + 1)]


def test_an_event_that_disturbs_nobody_makes_nobody_late() -> None:
    heard = {"a": Heard(steady(0.0, 30.0, 0.1))}
    found = judged(heard, (0.0, 10.0), 10.0, 30.0)
    assert found.late == {"a": 0}
    assert 0 < found.first["a"] <= 0.11
    assert found.slowest == 0.1


def test_seconds_without_an_answer_count_as_late() -> None:
    """The one that came after seven seconds was waited for in seven of them."""
    heard = {"a": Heard([*steady(0.0, 10.0, 0.1), Answer(17.3, 7.3), *steady(17.3, 30.0, 0.1)])}
    found = judged(heard, (0.0, 10.0), 10.0, 30.0)
    assert found.late == {"a": 8}
    assert math.isclose(found.first["a"], 7.3, abs_tol=0.01)
    assert found.slowest == 7.3


def test_each_late_second_counts_once_and_what_was_as_fast_as_before_does_not() -> None:
    answers = [Answer(10.2, 0.5), Answer(10.8, 0.5), Answer(12.1, 0.15), Answer(13.9, 0.5)]
    assert late_seconds(answers, 0.2, 10.0) == 2


def test_a_model_that_never_answers_again_is_told() -> None:
    heard = {"a": Heard(steady(0.0, 10.0, 0.1)), "b": Heard(steady(0.0, 30.0, 0.1))}
    assert first_answers(heard, 15.0)["a"] == math.inf
    assert first_answers(heard, 15.0)["b"] < 0.2


def test_the_percentile_of_few_is_the_slowest() -> None:
    assert percentile([0.1, 0.5, 0.2], 0.99) == 0.5
    assert math.isnan(percentile([], 0.5))
