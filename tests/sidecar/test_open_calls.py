"""Since when a runtime works on each request, and which has taken too long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.sidecar.runtimes.open_calls import OpenCall, OpenCalls


def call(limit_s: float = 10.0, *, in_order: bool = True) -> OpenCall:
    return OpenCall(lambda _: None, "batch", "m", 3, limit_s=limit_s, in_order=in_order)


def test_the_clock_of_a_request_that_was_sent_ahead_begins_when_the_one_before_it_has_ended() -> None:
    calls = OpenCalls()
    first, second = call(), call(4.0)
    calls.add(1, first, 100.0)
    calls.add(2, second, 101.0)
    assert calls.due_at() == 105.0
    assert calls.due(105.0) == [first]
    first.is_overdue = True
    assert calls.due_at() == 110.0
    assert calls.pop(1, 108.0) is first
    assert (second.began, calls.due_at()) == (108.0, 110.0)


def test_a_request_that_waits_for_nobody_has_a_clock_of_its_own() -> None:
    calls = OpenCalls()
    load = call(60.0, in_order=False)
    calls.add(1, load, 0.0)
    calls.add(2, call(), 1.0)
    assert calls.due_at() == 6.0
    assert calls.pop(2, 5.0) is not None
    assert calls.due_at() == 30.0


def test_messages_say_what_it_was() -> None:
    assert call().what == "the batch of 3 rows of model m"
    assert OpenCall(lambda _: None, "load", "m").what == "the load of model m"
    assert OpenCall(lambda _: None, "greeting").what == "the greeting"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40))
def test_exactly_the_first_of_those_in_order_has_begun(steps: list[tuple[bool, int]]) -> None:
    calls, number = OpenCalls(), 0
    for sends, at in steps:
        if sends or not calls.calls:
            number += 1
            calls.add(number, call(in_order=at != 0), float(number))
        else:
            calls.pop(list(calls.calls)[at % len(calls.calls)], float(number))
        waiting = [one for one in calls.calls.values() if one.in_order]
        assert [one.began < 1e9 for one in waiting] == [True, *[False] * (len(waiting) - 1)][: len(waiting)]
