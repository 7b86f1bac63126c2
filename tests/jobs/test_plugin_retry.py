"""`kubectl batchwright retry`: the InferenceJob that it makes."""

from __future__ import annotations

from typing import Any

import click
import pytest

from batchwright_operator.plugin.retry import retried


def complete(failed: int = 2, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {
            "name": "night",
            "namespace": "shop",
            "uid": "u",
            "resourceVersion": "7",
            "labels": {"kueue.x-k8s.io/queue-name": "q"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        }
        | metadata,
        "spec": {"suspend": True, "output": {"uri": "pvc://data/out"}, "tasks": []},
        "status": {"conditions": [{"type": "Complete", "status": "True"}], "items": {"failed": failed}},
    }


def test_it_is_a_new_object_with_the_same_spec() -> None:
    made = retried(complete(), "", {"night", "night-retry-1"})
    assert made["metadata"] == {
        "name": "night-retry-2",
        "namespace": "shop",
        "labels": {"kueue.x-k8s.io/queue-name": "q"},
        "annotations": {"batchwright.dev/retry-of": "night"},
    }
    assert made["spec"] == {
        "suspend": False,
        "output": {"uri": "pvc://data/out", "mode": "RetryFailed"},
        "tasks": [],
    }


def test_a_retry_of_a_retry_is_named_after_the_first_job() -> None:
    again = complete(name="night-retry-1", annotations={"batchwright.dev/retry-of": "night"})
    assert retried(again, "", {"night", "night-retry-1"})["metadata"]["name"] == "night-retry-2"


def test_a_long_name_stays_a_label() -> None:
    assert len(retried(complete(name="n" * 63), "", set())["metadata"]["name"]) <= 63


@pytest.mark.parametrize(
    ("change", "words"),
    [({"items": {"failed": 0}}, "nothing to run again"), ({"conditions": []}, "is not complete")],
)
def test_what_has_nothing_to_repeat_is_refused(change: dict[str, Any], words: str) -> None:
    stored = complete()
    stored["status"] |= change
    with pytest.raises(click.ClickException, match=words):
        retried(stored, "", set())
