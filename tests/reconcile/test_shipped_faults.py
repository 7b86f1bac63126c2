"""The whole operator under faults: killed after every n-th write, behind an API that lies; then stable, then silent.

`test_api_faults` does the same, and much more of it, to the machinery alone.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import Any

import pytest

from e2e.cluster import ControlPlane
from e2e.faultproxy import FaultProxy
from tests.reconcile.bed import OBJECTS, Bed, moment_ago, wait
from tests.reconcile.test_shipped_operator import CLAIM, CLAIMS, PODS, plane, receipts

__all__ = ["plane"]
pytestmark = [pytest.mark.apiserver, pytest.mark.slow]

COUNT, REPLICAS = 3, 2
WRITES = ["create", "update", "patch", "delete"]
STABLE_S = 10.0
"""After the faults stop; `wait` multiplies it for a machine that is shared."""


@pytest.fixture(autouse=True)
def claim(plane: ControlPlane) -> None:
    """What the models' artifacts are on."""
    if not plane.api.exists(f"{CLAIMS}/models"):
        plane.api.request("POST", CLAIMS, CLAIM)


def shipped(bed: Bed, *, proxy: FaultProxy | None = None, lease: str = "batchwright-operator") -> Any:
    """The operator with all its reconcilers."""
    return bed.operator(
        proxy=proxy, BATCHWRIGHT_RECONCILERS="[]", BATCHWRIGHT_RESYNC_SECONDS="3", BATCHWRIGHT_LEASE_NAME=lease
    )


def owned(bed: Bed) -> Counter[str]:
    """How many children of each kind there are."""
    api, place = "/apis/apps/v1/namespaces/default", "/api/v1/namespaces/default"
    paths = {
        "deployments": f"{api}/deployments",
        "services": f"{place}/services",
        "configmaps": f"{place}/configmaps",
        "secrets": f"{place}/secrets",
        "poddisruptionbudgets": "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
        "networkpolicies": "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
        "pods": PODS.split("?")[0],
    }
    label = "labelSelector=batchwright.dev/deployment"
    return Counter({kind: len(bed.api.get(f"{path}?{label}")["items"]) for kind, path in paths.items()})


WANTED = Counter(
    deployments=COUNT,
    services=2 * COUNT,
    configmaps=COUNT,
    secrets=COUNT,
    poddisruptionbudgets=COUNT,
    networkpolicies=COUNT,
    pods=COUNT * REPLICAS,
)


def is_stable(bed: Bed) -> bool:
    """Everything there once, every pod with its receipt, every status of the newest generation."""
    objects = bed.api.get(OBJECTS)["items"]
    seen = all(each["status"]["observedGeneration"] == each["metadata"]["generation"] for each in objects)
    return seen and owned(bed) == WANTED and len(receipts(bed)) == COUNT * REPLICAS


def explain(bed: Bed) -> str:
    return f"{owned(bed)}, {len(receipts(bed))} receipts, {[each['status'] for each in bed.api.get(OBJECTS)['items']]}"


def settled(bed: Bed, user: str = "operator") -> None:
    """Stable soon after the faults have stopped, and then nothing is written."""
    wait(lambda: is_stable(bed), STABLE_S, lambda: explain(bed))
    bed.assert_silent(user, calm_s=3.0)


def emptied(bed: Bed) -> None:
    bed.api.delete(OBJECTS)
    wait(lambda: not any(owned(bed).values()), 60, lambda: f"{owned(bed)}")


def test_killed_after_every_nth_write(bed: Bed) -> None:
    bed.create(COUNT)
    bed.change(COUNT, replicas=REPLICAS)
    for writes in (1, 2, 3, 5, 8, 13):
        since = moment_ago()
        with shipped(bed, lease=f"lease-{writes}") as operator:
            wait(lambda: len(bed.writes(since=since)) >= writes or is_stable(bed), 20, operator.text)  # noqa: B023
            operator.signal(signal.SIGKILL)
            operator.process.wait()
    with shipped(bed, lease="lease-last") as operator:
        wait(lambda: "leading as" in operator.text(), 30, operator.text)  # it looks at every child once
        settled(bed)
    names = Counter((one.resource, one.name) for one in bed.writes() if one.verb == "create" and one.status == 201)
    assert not [each for each, times in names.items() if times > 1 and each[1]], "made twice"
    emptied(bed)


RULES: list[list[dict[str, Any]]] = [
    [{"verbs": WRITES, "loseAnswer": True, "probability": 0.3}],
    [{"verbs": WRITES, "status": 409, "probability": 0.3}, {"verbs": ["watch"], "duplicate": True}],
    [{"verbs": ["watch"], "stale": True}, {"verbs": WRITES, "status": 429, "retryAfter": 1, "probability": 0.3}],
    [{"verbs": ["watch"], "dropAfterEvents": 2}, {"verbs": ["list", "get"], "status": 500, "probability": 0.3}],
]


@pytest.mark.parametrize(
    "rules", RULES, ids=["answers lost", "409, events twice", "stale, 429", "watches dropped, 500"]
)
def test_an_api_that_lies_for_a_while(bed: Bed, rules: list[dict[str, Any]]) -> None:
    with bed.proxy("operator") as proxy, shipped(bed, proxy=proxy) as operator:
        wait(lambda: "leading as" in operator.text(), 30, operator.text)
        proxy.set(*rules)
        bed.create(COUNT)
        bed.change(COUNT, replicas=REPLICAS)
        time.sleep(5)
        assert sum(proxy.hits()) > 0
        proxy.set()
        settled(bed)
        emptied(bed)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("outage_s", [60, 120])
def test_an_outage_of_minutes(bed: Bed, outage_s: int) -> None:
    with bed.proxy("operator") as proxy, shipped(bed, proxy=proxy) as operator:
        wait(lambda: "leading as" in operator.text(), 30, operator.text)
        bed.create(COUNT)
        proxy.set({"verbs": [*WRITES, "get", "list", "continue", "watch"], "status": 503})
        bed.change(COUNT, replicas=REPLICAS)
        time.sleep(outage_s)
        proxy.set()
        # The Lease is taken anew and every list is made anew first.
        wait(lambda: "leading as" in operator.text().rpartition("no longer leading")[2], 30, operator.text)
        settled(bed)
        emptied(bed)
