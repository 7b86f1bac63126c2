"""A device that runs batches layer by layer: at most two per model, the second behind the first."""

from __future__ import annotations

import pytest

from batchwright_worker.scheduler.devices import DeviceTimeline, Flight


def flight(serial: int, model: str, rows: int = 4, began: float = 0.0, *, isolated: bool = False) -> Flight:
    return Flight(serial=serial, model=model, device_s=1.0, rows=rows, began=began, isolated=isolated)


def timeline(*flights: Flight) -> DeviceTimeline:
    found = DeviceTimeline(interleaves=True, depth=4)
    for each in flights:
        found.start_batch(each, each.began, 0.0)
    return found


@pytest.mark.parametrize(
    ("flights", "rows", "full", "taken"),
    [
        ([], 4, True, False),  # it is the first
        ([flight(1, "a")], 4, False, True),
        ([flight(1, "a")], 3, False, False),  # more may come while that one runs
        ([flight(1, "a")], 3, True, True),
        ([flight(1, "a"), flight(2, "a")], 4, True, False),
        ([flight(1, "b")], 4, True, False),
        ([flight(1, "a", isolated=True)], 4, True, False),
    ],
)
def test_a_second_batch_of_a_model_goes_behind_its_first(
    flights: list[Flight], rows: int, full: bool, taken: bool
) -> None:
    assert timeline(*flights).takes_behind("a", rows, full) is taken


def test_a_device_that_runs_one_batch_after_the_other_has_other_rules_for_it() -> None:
    found = DeviceTimeline(depth=4)
    found.start_batch(flight(1, "a"), 0.0, 0.0)
    assert not found.takes_behind("a", 4, True)


def test_what_a_batch_waited_behind_its_models_first_is_no_time_of_its_own() -> None:
    found = timeline(flight(1, "a", began=10.0), flight(2, "a", began=11.0), flight(3, "b", began=11.0))
    assert found.end_batch(1, 14.0) == 4.0
    assert found.end_batch(2, 17.0) == 3.0
    assert found.end_batch(3, 18.0) == 7.0
