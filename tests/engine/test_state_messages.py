"""What a replica says of models that cannot be served: few words for many models."""

from __future__ import annotations

from batchwright_worker.engine.state_publisher import MOST_CHARACTERS, StatePublisher
from batchwright_worker.scheduler.devices import DeviceConfig
from batchwright_worker.scheduler.scheduler import Scheduler


def publisher(states: dict[str, tuple[str, str]]) -> StatePublisher:
    """Model -> state and message, on a device that is up."""
    scheduler = Scheduler()
    scheduler.add_device(DeviceConfig(name="d", kind="cpu"), up=True)
    found = StatePublisher(scheduler=scheduler, counters={}, clock=lambda: 0.0, wall=lambda: 0.0)
    for name, (state, message) in states.items():
        found.add(name, 1)
        found.set_state(name, state, message)
    return found


def test_a_few_are_named_with_their_reasons() -> None:
    states = {"a": ("Failed", "no file"), "b": ("Ready", ""), "c": ("Loading", "")}
    assert publisher(states).what_is_missing() == "a: no file; c: Loading"
    assert publisher({"b": ("Ready", "")}).what_is_missing() == ""


def test_of_many_three_are_named_and_all_counted() -> None:
    states = {f"m{number}": ("Failed", "x" * 5000) for number in range(40)}
    states |= {f"l{number}": ("Loading", "") for number in range(20)}
    text = publisher(states).what_is_missing()
    assert text.count("m") > 3
    assert text.endswith("of 60 models 40 have failed and 20 are loading")
    assert len(text) < 4 * MOST_CHARACTERS


def test_the_message_is_there_where_the_replica_is_ready_without_some() -> None:
    found = publisher({"a": ("Failed", "no file"), "b": ("Ready", "")})
    found.readiness.rule = "Any"
    assert found.ready
    assert found.what_is_missing() == "a: no file"
