"""Equal Events are posted once and then counted, at a bounded rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.kube.objects import Raw
from batchwright_operator.reconcile.decisions import Event
from batchwright_operator.reconcile.event_recorder import (
    ALL_BURST,
    ALL_PER_S,
    OBJECT_BURST,
    OBJECT_PER_S,
    SERIES_MAX,
    SERIES_S,
    EventLimits,
    event_body,
)

OBJECT: Raw = {
    "apiVersion": "batchwright.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "5"},
}


def event(message: str = "m", uid: str = "u") -> Event:
    regarding = OBJECT | {"metadata": OBJECT["metadata"] | {"uid": uid}}
    return Event(regarding=regarding, reason="Changed", message=message)


def test_equal_events_are_posted_once_and_then_counted_ever_more_rarely() -> None:
    limits = EventLimits()
    postings = [limits.admit(event(), float(second)) for second in range(100)]
    posted = [one for one in postings if one]
    assert [one.count for one in posted] == [1, 2, 4, 8, 16, 32, 64]
    assert len({one.name for one in posted}) == 1


def test_an_event_after_a_long_silence_begins_a_series() -> None:
    limits = EventLimits()
    first = limits.admit(event(), 0.0)
    again = limits.admit(event(), SERIES_S + 1)
    assert first
    assert again
    assert (again.count, again.name != first.name) == (1, True)


def test_one_object_cannot_flood() -> None:
    limits = EventLimits()
    posted = sum(limits.admit(event(f"m{i}"), 0.0) is not None for i in range(1000))
    assert posted == OBJECT_BURST
    assert limits.admit(event("other", uid="v"), 0.0)


@given(pauses=st.lists(st.floats(0, 2), max_size=300))
def test_the_rate_over_all_objects_is_bounded(pauses: list[float]) -> None:
    limits, now, posted = EventLimits(), 0.0, 0
    for number, pause in enumerate(pauses):
        now += pause
        posted += limits.admit(event(uid=f"u{number}"), now) is not None
    assert posted <= ALL_BURST + ALL_PER_S * now + 1


def test_the_body_fits_the_limits_of_the_api() -> None:
    posting = EventLimits().admit(event("ä" * 2000), 1_800_000_000.25)
    assert posting
    body = event_body(posting, "i" * 200)
    assert len(body["note"].encode()) <= 1024
    assert len(body["reportingInstance"]) <= 128
    assert body["eventTime"] == "2027-01-15T08:00:00.250000Z"
    assert body["regarding"]["uid"] == "u"
    assert body["metadata"]["namespace"] == "n"


def test_an_event_that_was_held_back_is_posted_when_it_may_be() -> None:
    limits = EventLimits()
    for number in range(int(OBJECT_BURST)):
        assert limits.admit(event(f"m{number}"), 0.0)
    assert limits.admit(event("important"), 0.0) is None
    later = limits.admit(event("important"), 1 / OBJECT_PER_S + 1)
    assert later
    assert later.count == 1, "a count of an Event that was never posted would be posted nowhere"


def test_as_many_texts_as_there_are_pods_are_not_remembered_for_ever() -> None:
    limits, now = EventLimits(), 0.0
    for number in range(3 * SERIES_MAX):
        now += 0.02
        limits.admit(event(f"pod {number}", uid=f"u{number}"), now)
    assert len(limits._series) <= SERIES_MAX


def test_a_clock_that_is_set_back_holds_nothing_back() -> None:
    limits = EventLimits()
    assert limits.admit(event("before"), 10_000.0)
    assert limits.admit(event("after"), 0.0)
    assert limits.admit(event("before"), 1.0)
