"""When a status is worth a write."""

from __future__ import annotations

from typing import Any

import pytest

from batchwright_operator.kube.times import rfc3339
from batchwright_operator.status.write_policy import WritePolicy, write_decision

NOW = 1_800_000_000.0


HELD = {"heldBecause": "TargetMet", "boundBy": "Size", "searching": False, "rowsLimit": 10}


def status(**parts: Any) -> dict[str, Any]:
    model = {"name": "m", "batchSize": 4, "throughput": 100, "trendZ": "0.10", "latencyMilliseconds": {"p95": 50}}
    return {"conditions": [condition("Ready")], "models": [model | parts]}


def condition(kind: str, value: str = "True", message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": value, "reason": "R", "message": message}


def pods(throughput: int = 1, node: str = "a", size: int = 4) -> dict[str, Any]:
    shown = {"pod": "p", "node": node, "models": [{"name": "m", "batchSize": size, "throughput": throughput}]}
    return {"replicaStatuses": [shown], "placements": [{"pod": "p", "node": node, "observedThroughput": throughput}]}


def written(ago_s: float = 600.0, **parts: Any) -> dict[str, Any]:
    return status(**parts) | {"lastUpdatedTime": rfc3339(NOW - ago_s)}


def told(value: str) -> dict[str, Any]:
    return {"conditions": [condition("Ready"), condition("LatencyTargetMet", value)]}


CASES = [
    pytest.param(written(), status(), False, None, id="equal"),
    pytest.param({}, status(), True, None, id="the first visit"),
    # What the cluster says.
    pytest.param(written(0.0), status() | {"readyReplicas": 3}, True, None, id="a count at once"),
    pytest.param(written(0.0), status() | {"conditions": [condition("Ready", "False")]}, True, None, id="a condition"),
    pytest.param(written(0.0) | pods(), status() | pods(node="b"), True, None, id="a pod elsewhere at once"),
    pytest.param(written(0.0), status() | {"summary": {"reason": "Stalled"}}, True, None, id="a reason at once"),
    # Words that pods report.
    pytest.param(written(), status(batchSize=5), True, None, id="a batch size"),
    pytest.param(written(4.0), status(batchSize=5), False, 6.0, id="a batch size, too soon"),
    pytest.param(written(10.0), status(trend="Rising"), True, None, id="a trend"),
    pytest.param(written(4.0) | told("True"), status() | told("False"), False, 6.0, id="a target missed, too soon"),
    pytest.param(written(10.0) | told("True"), status() | told("False"), True, None, id="a target missed"),
    # Numbers that are measured.
    pytest.param(written(), status(throughput=109), False, None, id="a metric within 10 %"),
    pytest.param(written(), status(throughput=120), True, None, id="a metric beyond 10 %"),
    pytest.param(written(40.0), status(throughput=200), False, 20.0, id="a metric, too soon"),
    pytest.param(written(), status(latencyMilliseconds={"p95": 51}), False, None, id="a nested metric within 10 %"),
    pytest.param(written(), status(latencyMilliseconds={"p95": 70}), True, None, id="a nested metric beyond 10 %"),
    pytest.param(written(), status(latencyMilliseconds={}), True, None, id="a metric that goes"),
    pytest.param(written(tuning=HELD), status(tuning=HELD), False, None, id="the same tuning"),
    pytest.param(written(tuning=HELD), status(tuning=HELD | {"rowsLimit": 11}), False, None, id="a bound near by"),
    pytest.param(
        written(40.0, tuning=HELD),
        status(tuning=HELD | {"heldBecause": "AtMaximum"}),
        False,
        20.0,
        id="why a size is held, too soon",
    ),
    pytest.param(
        written(tuning=HELD),
        status(tuning=HELD | {"heldBecause": "AtMaximum"}),
        True,
        None,
        id="why a size is held, after a while",
    ),
    # What only one pod says.
    pytest.param(written() | pods(), status() | pods(throughput=9, size=7), False, None, id="a single pod's values"),
    # Another clock wrote it.
    pytest.param(written(-7200.0), status(throughput=200), False, 60.0, id="written in the future"),
]


@pytest.mark.parametrize(("old", "new", "writes", "due_s"), CASES)
def test_write_decision(old: dict[str, Any], new: dict[str, Any], writes: bool, due_s: float | None) -> None:
    write = write_decision(old, new, NOW, WritePolicy())
    assert (write.status is not None, write.due_in_s) == (writes, due_s)
    if write.status is not None:
        assert write.status["lastUpdatedTime"] == rfc3339(NOW)
        again = write_decision(write.status, new, NOW + 3600, WritePolicy())
        assert again.status is None


@pytest.mark.parametrize("objects", [1, 20, 100, 500, 5000])
@pytest.mark.parametrize("news", ["throughput", "batchSize"])
def test_all_objects_together_are_written_at_most_so_often_for_what_pods_report(objects: int, news: str) -> None:
    policy, old, now, writes = WritePolicy(objects=objects), written(), NOW, 0
    seconds = 4000
    for second in range(seconds):
        write = write_decision(old, status(**{news: 10 * (1 + second % 7)}), now + second, policy)
        writes, old = writes + (write.status is not None), write.status or old
    assert writes * objects / seconds <= 4.1 + objects / seconds


@pytest.mark.parametrize(("under_way", "writes_per_s"), [(1, 1.0), (4, 4.0), (50, 5.5), (75, 5.5)])
def test_how_far_many_are_is_written_at_a_rate_that_all_together_do_not_exceed(
    under_way: int, writes_per_s: float
) -> None:
    policy, old, writes, seconds = WritePolicy(under_way=under_way), written(), 0, 600
    for second in range(seconds):
        write = write_decision(old, status() | {"readyReplicas": second}, NOW + second, policy)
        writes, old = writes + (write.status is not None), write.status or old
    assert writes * under_way / seconds <= writes_per_s
    assert write.status is not None or 0.0 < (write.due_in_s or 0.0) <= 15.0, "it comes, late"


@pytest.mark.parametrize(
    "news", [{"conditions": [condition("Ready", "False")]}, {"observedGeneration": 2}], ids=["verdict", "generation"]
)
def test_what_others_wait_for_is_written_at_once_however_many_are_under_way(news: dict[str, Any]) -> None:
    policy = WritePolicy(under_way=5000)
    assert write_decision(written(0.0), status() | news, NOW, policy).status is not None
    words = {"conditions": [condition("Ready", message="3 of 10")]}
    assert write_decision(written(0.0), status() | words, NOW, policy).due_in_s == 15.0
