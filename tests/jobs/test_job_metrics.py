"""What /metrics says of an InferenceJob."""

from __future__ import annotations

from batchwright_operator.jobs.metrics import metrics_of
from batchwright_operator.reconcile.metrics import parse_name


def test_a_status_becomes_gauges() -> None:
    status = {
        "conditions": [{"type": "Complete", "status": "True"}, {"type": "Stalled", "status": "False"}],
        "items": {"total": 60, "succeeded": 50, "failed": 2},
        "shards": {"total": 4, "completedIndexes": "0-3"},
        "throughput": "12.5",
        "estimatedRemainingSeconds": 9,
        "tasks": [
            {
                "name": "rec",
                "kind": "Model",
                "succeeded": 50,
                "failed": 2,
                "meanBatchSize": "7.5",
                "p95Milliseconds": 80,
            },
            {"name": "best", "kind": "CPU"},
        ],
    }
    found = {
        parse_name(text)[0].removeprefix("batchwright_inferencejob_"): 0.0 for text in metrics_of("a", "j", status)
    }
    assert set(found) == {
        "condition", "items", "shards", "throughput_items_per_second", "remaining_seconds", "task_items",
        "task_batch_size_mean", "task_latency_p95_seconds",
    }  # fmt: skip
    values = metrics_of("a", "j", status)
    whose = 'namespace="a",name="j"'
    assert values[f'batchwright_inferencejob_condition{{{whose},condition="Complete"}}'] == 1
    assert values[f'batchwright_inferencejob_condition{{{whose},condition="Stalled"}}'] == 0
    assert values[f'batchwright_inferencejob_items{{{whose},state="failed"}}'] == 2
    assert values[f'batchwright_inferencejob_task_latency_p95_seconds{{{whose},task="rec"}}'] == 0.08


def test_what_is_not_known_is_missing() -> None:
    assert {parse_name(text)[0] for text in metrics_of("a", "j", {})} == {"batchwright_inferencejob_condition"}
