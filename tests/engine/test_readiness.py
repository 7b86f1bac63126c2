"""When a replica takes traffic, by the rule of the manifest and what its models are."""

from __future__ import annotations

import pytest

from batchwright_worker.engine.readiness import Readiness

ONE_BROKEN = {"a": "Ready", "b": "Failed"}
ONE_LOADING = {"a": "Ready", "b": "Loading"}
ALL = {"a": "Ready", "b": "Unloaded"}
NONE = {"a": "Failed", "b": "Unloaded"}


def seen(readiness: Readiness, *each: dict[str, str]) -> list[bool]:
    """The verdicts after each of these states of all models."""
    verdicts = []
    for states in each:
        for model, state in states.items():
            readiness.see(model, state)
        verdicts.append(readiness.is_ready(states, device_up=True))
    return verdicts


def test_all_waits_for_every_model() -> None:
    assert seen(Readiness(), ONE_LOADING, ONE_BROKEN, ALL) == [False, False, True]


def test_after_that_one_that_breaks_takes_no_other_down() -> None:
    assert seen(Readiness(), ALL, ONE_BROKEN, ONE_LOADING, NONE) == [True, True, True, False]


def test_a_pod_that_was_ready_before_a_restart_needs_one_model_after_every_one_was_tried() -> None:
    assert seen(Readiness(was_ready=True), ONE_LOADING, ONE_BROKEN) == [False, True]


def test_any_needs_one_model_after_every_one_was_tried() -> None:
    assert seen(Readiness(rule="Any"), ONE_LOADING, ONE_BROKEN, NONE, ALL) == [False, True, False, True]


def test_all_models_unloaded_by_request_is_what_was_asked_for() -> None:
    assert seen(Readiness(), {"a": "Unloaded"}) == [True]


@pytest.mark.parametrize("rule", ["All", "Any"])
def test_nothing_is_ready_without_a_device_or_a_model(rule: str) -> None:
    readiness = Readiness(rule=rule)  # type: ignore[arg-type]
    assert not readiness.is_ready(ALL, device_up=False)
    assert not readiness.is_ready({}, device_up=True)
    assert not readiness.was_ready
