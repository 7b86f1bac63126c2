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
    return {"conditions": [{"type": "Ready", "status": "True"}], "models": [model | parts]}


def written(ago_s: float = 60.0, **parts: Any) -> dict[str, Any]:
    return status(**parts) | {"lastUpdatedTime": rfc3339(NOW - ago_s)}


@pytest.mark.parametrize(
    ("old", "new", "writes", "due_s"),
    [
        pytest.param(written(), status(), False, None, id="equal"),
        pytest.param(written(), status(throughput=109), False, None, id="a metric within 10 %"),
        pytest.param(written(), status(throughput=120), True, None, id="a metric beyond 10 %"),
        pytest.param(written(4.0), status(throughput=200), False, 6.0, id="too soon"),
        pytest.param(written(4.0), status(batchSize=5), True, None, id="a batch size at once"),
        pytest.param(written(4.0), status(trend="Rising"), True, None, id="a trend at once"),
        pytest.param(written(), status(latencyMilliseconds={"p95": 51}), False, None, id="a nested metric within 10 %"),
        pytest.param(written(), status(latencyMilliseconds={"p95": 70}), True, None, id="a nested metric beyond 10 %"),
        pytest.param(written(), status(latencyMilliseconds={}), True, None, id="a metric that goes"),
        pytest.param({}, status(), True, None, id="the first visit"),
        pytest.param(written(tuning=HELD), status(tuning=HELD), False, None, id="the same tuning"),
        pytest.param(written(tuning=HELD), status(tuning=HELD | {"rowsLimit": 11}), False, None, id="a bound near by"),
        pytest.param(
            written(4.0, tuning=HELD),
            status(tuning=HELD | {"heldBecause": "AtMaximum"}),
            False,
            6.0,
            id="why a size is held, too soon",
        ),
        pytest.param(
            written(tuning=HELD),
            status(tuning=HELD | {"heldBecause": "AtMaximum"}),
            True,
            None,
            id="why a size is held, after a while",
        ),
    ],
)
def test_write_decision(old: dict[str, Any], new: dict[str, Any], writes: bool, due_s: float | None) -> None:
    write = write_decision(old, new, NOW, WritePolicy())
    assert (write.status is not None, write.due_in_s) == (writes, due_s)
    if write.status is not None:
        again = write_decision(write.status, new, NOW + 3600, WritePolicy())
        assert again.status is None


def test_the_stamp_is_when_measured_values_were_written() -> None:
    turned = write_decision(written(4.0), status(batchSize=5), NOW, WritePolicy())
    assert turned.status is not None
    assert turned.status["lastUpdatedTime"] == rfc3339(NOW - 4)
    moved = write_decision(written(), status(throughput=200), NOW, WritePolicy())
    assert moved.status is not None
    assert moved.status["lastUpdatedTime"] == rfc3339(NOW)
