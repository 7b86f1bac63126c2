"""What the API server and the network do to an operator: afterwards everything converges, and then it is silent."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

from tests.reconcile.bed import SYSTEM, Bed, moment_ago, stop, wait

pytestmark = pytest.mark.apiserver

WRITES = ["create", "update", "patch", "delete"]
EVERYTHING = [*WRITES, "get", "list", "continue", "watch"]
LEASES = "/leases"


def survive(
    bed: Bed, rule: dict[str, Any], *, faulty_s: float, within_s: float = 30, count: int = 100, least: int = 0,
    **environ: str,
) -> int:  # fmt: skip
    """Objects are made while the fault lasts; all converge soon after it; then silence. How often it fired. A machine
    that is slow may need longer than `faulty_s` until it has fired `least` times."""
    with bed.proxy("operator") as proxy, bed.operator(proxy=proxy, **environ):
        bed.create(count // 4)
        bed.converge(count // 4, 30)
        proxy.set(rule)
        bed.create(count - count // 4, prefix="n")
        bed.change(count // 4, replicas=2)
        time.sleep(faulty_s)
        wait(lambda: proxy.hits()[0] >= least, 20, lambda: f"it has fired {proxy.hits()} times")
        (hits,) = proxy.hits()
        proxy.set()
        bed.converge(count, within_s)
        bed.assert_silent(calm_s=5)  # whose last try was refused tries once more after its pause
    return hits


@pytest.mark.parametrize(("faulty_s", "most"), [(6.0, 120), pytest.param(70.0, 180, marks=pytest.mark.soak)])
def test_503_on_writes(bed: Bed, faulty_s: float, most: int) -> None:
    """All of 100 converge, and while it lasts there is no storm of tries."""
    rule = {"verbs": WRITES, "notPath": LEASES, "status": 503}
    hits = survive(bed, rule, faulty_s=faulty_s)
    assert 3 <= hits <= most


@pytest.mark.parametrize("status", [429, 403, 500])
def test_other_refusals_for_a_while(bed: Bed, status: int) -> None:
    rule = {"verbs": EVERYTHING, "status": status, "retryAfter": 1, "probability": 0.5}
    assert survive(bed, rule, faulty_s=4, count=40, least=11) > 10


def test_everything_refused_for_longer_than_the_lease(bed: Bed) -> None:
    """The leader is deposed, comes back, and everybody converges; kopf gets the same treatment."""
    rule = {"verbs": EVERYTHING, "status": 503}
    with bed.proxy("operator") as proxy, bed.operator(proxy=proxy) as operator:
        bed.create(20)
        bed.converge(20, 30)
        proxy.set(rule, {"verbs": ["watch"], "dropNow": True})
        bed.create(20, prefix="n")
        time.sleep(8)
        proxy.set()
        bed.converge(40, 40)
        bed.assert_silent()
        assert "no longer leading" in operator.text()


def test_the_start_under_503_on_list_and_410_on_further_pages(bed: Bed) -> None:
    bed.create(30)
    rules = [
        {"verbs": ["list"], "status": 503, "times": 12},
        {"verbs": ["continue"], "status": 410, "times": 3},
    ]
    with bed.proxy("operator") as proxy:
        proxy.set(*rules)
        with bed.operator(proxy=proxy, BATCHWRIGHT_LIST_PAGE_SIZE="10"):
            bed.converge(30, 60)
            # the third expired page may be that of the operator's own list a minute later
            wait(lambda: proxy.hits() == [12, 3], 75, lambda: f"{proxy.hits()}")
            bed.assert_silent()


@pytest.mark.parametrize(
    "rule",
    [
        {"verbs": ["watch"], "dropAfterEvents": 2},
        {"verbs": ["watch"], "gone": True, "probability": 0.3},
        {"verbs": ["watch"], "status": 410},
        {"verbs": ["watch"], "duplicate": True},
        {"verbs": ["watch"], "stale": True},
    ],
    ids=["dropped", "410 in the stream", "410 at once", "duplicated", "stale"],
)
def test_bad_watches(bed: Bed, rule: dict[str, Any]) -> None:
    assert survive(bed, rule, faulty_s=2, count=60) > 0 or rule.get("status") == 410


def test_watches_that_fall_silent_are_noticed(bed: Bed) -> None:
    rule = {"verbs": ["watch"], "stall": True}
    assert survive(bed, rule, faulty_s=1, count=20, BATCHWRIGHT_WATCH_STALE_SECONDS="3") > 0


def test_lost_and_late_responses(bed: Bed) -> None:
    """The write happens and its response is lost: that is found out, and it is not done twice."""
    for rule in ({"verbs": WRITES, "loseAnswer": True, "probability": 0.3}, {"verbs": WRITES, "delaySeconds": 1.0}):
        survive(bed, rule, faulty_s=3, count=30)
        bed.clean()
    names = [one.name for one in bed.writes() if one.resource == "events" and one.status == 201]
    assert len(names) == len(set(names))


def test_the_api_server_restarts(bed: Bed) -> None:
    with bed.operator() as operator:
        bed.create(30)
        bed.converge(30, 30)
        bed.plane.stop_apiserver()
        time.sleep(5)
        bed.plane.start_apiserver()
        bed.create(30, prefix="n")
        bed.change(30, replicas=2)
        bed.converge(60, 30)
        bed.assert_silent()
        assert len(operator.text().splitlines()) < 200, "an outage is not logged hundreds of times"


def test_killed_at_random(bed: Bed) -> None:
    rng = random.Random(3)
    with ThreadPoolExecutor(1) as background:
        creating = background.submit(bed.create, 100)
        for _ in range(3):
            with bed.operator() as operator:
                wait(lambda: "leading as" in operator.text(), 30, operator.text)
                time.sleep(rng.uniform(0.1, 0.6))
                operator.signal(signal.SIGKILL)
                operator.process.wait()
        creating.result()
    with bed.operator():
        bed.converge(100, 30)
        bed.assert_silent()


def test_a_deposed_leader_stops_at_once_and_its_late_status_write_is_fenced(bed: Bed) -> None:
    """The leader's last status write is on its way for 20 s; meanwhile it cannot renew and another one takes over."""
    bed.create(1)
    with bed.proxy("first") as proxy, bed.operator("first", proxy=proxy) as first:
        bed.converge(1, 30)
        bed.settle("first")
        with bed.operator("second") as second:
            wait(lambda: "caches are filled" in second.text(), 30, second.text)
            proxy.set(
                {"verbs": ["patch"], "path": "/status$", "delaySeconds": 20.0, "times": 1},
                {"verbs": ["update"], "path": "/leases/", "status": 503},
            )
            since = moment_ago()
            bed.change(1, replicas=5)
            wait(lambda: "leading as" in second.text(), 18, second.text)
            assert "no longer leading" in first.text()
            bed.change(1, replicas=6)
            bed.converge(1, 15)
            wait(lambda: bool(late(bed, since)), 25, lambda: f"the late write did not arrive: {proxy.hits()}")
            assert late(bed, since) == [409]
            assert bed.unsettled(1) == []
            bed.assert_silent("second")


def late(bed: Bed, since: datetime) -> list[int]:
    return [one.status for one in bed.writes("first", since) if one.resource == "modeldeployments/status"]


def test_leadership_moves_at_once_on_sigterm(bed: Bed) -> None:
    bed.create(5)
    with bed.operator("first") as first:
        wait(lambda: "leading as" in first.text(), 30, first.text)
        with bed.operator("second", BATCHWRIGHT_RESYNC_SECONDS="300") as second:
            wait(lambda: "caches are filled" in second.text(), 30, second.text)
            bed.converge(5, 30)
            assert "leading as" not in second.text()
            leader = holder(bed)
            stop(first.process)
            assert holder(bed) != leader, "the Lease was released, so nobody waits for its end"
            bed.change(5, replicas=2)
            bed.converge(5, 30)
            assert "leading as" in second.text()


def holder(bed: Bed) -> str:
    """Of the Lease; empty: nobody."""
    lease = bed.api.get(f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/batchwright-operator")
    return str(lease["spec"].get("holderIdentity") or "")


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("quiet_s", [120, 600])
def test_silence_for_minutes(bed: Bed, quiet_s: int) -> None:
    with bed.operator(BATCHWRIGHT_RESYNC_SECONDS="30"):
        bed.create(100)
        bed.converge(100, 30)
        bed.assert_silent(quiet_s=quiet_s)
