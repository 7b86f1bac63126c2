"""An InferenceJob as gauges of the operator's /metrics, out of its status; pure."""

from __future__ import annotations

from collections.abc import Iterator

from batchwright_operator.kube.objects import Raw

PREFIX = "batchwright_inferencejob_"
CONDITIONS = ("Complete", "Failed", "Suspended", "Stalled")


def metrics_of(namespace: str, name: str, status: Raw) -> dict[str, float]:
    """`name{labels}` -> value. What is not known yet is missing, not 0."""
    whose = f'namespace="{namespace}",name="{name}"'
    return {f"{PREFIX}{metric}{{{whose}{labels}}}": value for metric, labels, value in _values(status)}


def _values(status: Raw) -> Iterator[tuple[str, str, float]]:
    """(metric, further labels, value)."""
    truth = {each["type"]: each["status"] == "True" for each in status.get("conditions") or ()}
    for condition in CONDITIONS:
        yield "condition", f',condition="{condition}"', float(truth.get(condition, False))
    for state, number in (status.get("items") or {}).items():
        yield "items", f',state="{state}"', float(number)
    if (shards := (status.get("shards") or {}).get("total")) is not None:
        yield "shards", "", float(shards)
    for field, metric in (
        ("throughput", "throughput_items_per_second"),
        ("estimatedRemainingSeconds", "remaining_seconds"),
    ):
        if status.get(field) is not None:
            yield metric, "", float(status[field])
    for task in status.get("tasks") or ():
        labels = f',task="{task["name"]}"'
        for state in ("succeeded", "failed"):
            if task.get(state) is not None:
                yield "task_items", f'{labels},state="{state}"', float(task[state])
        if task.get("meanBatchSize") is not None:
            yield "task_batch_size_mean", labels, float(task["meanBatchSize"])
        if task.get("p95Milliseconds") is not None:
            yield "task_latency_p95_seconds", labels, float(task["p95Milliseconds"]) / 1000
