"""The operator on a healthy API server: it converges, repairs, reports what is refused, and then is silent."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.reconcile.bed import CHILDREN, OBJECTS, Bed, moment_ago, wait

pytestmark = pytest.mark.apiserver

MAPS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


def data_of(bed: Bed, name: str) -> Any:
    return bed.api.get(f"{MAPS}/{name}")["data"]


def selector_of(bed: Bed) -> Any:
    return bed.api.get(f"{DEPLOYMENTS}/m5-pods")["spec"]["template"]["spec"].get("nodeSelector")


def test_it_converges_and_then_writes_nothing_for_20_seconds(bed: Bed) -> None:
    with bed.operator() as operator:
        bed.create(100)
        bed.converge(100, 30)
        assert 'echo_children{name="m7"} 2.0' in operator.metrics()
        bed.assert_silent(quiet_s=20)
    counted = {(one.verb, one.resource) for one in bed.writes()}
    assert counted == {
        ("patch", "configmaps"),
        ("patch", "deployments"),
        ("patch", "modeldeployments/status"),
        ("create", "events"),
        ("create", "secrets"),
    }


def test_a_restart_writes_nothing_and_brings_back_what_changed_meanwhile(bed: Bed) -> None:
    bed.create(10)
    with bed.operator():
        bed.converge(10, 30)
        bed.assert_silent(quiet_s=1)
    since, before = moment_ago(), data_of(bed, "m3-echo")
    bed.api.patch(f"{MAPS}/m3-echo", {"data": dict.fromkeys(before, "theirs")})
    selector = {"spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}}
    bed.api.patch(f"{DEPLOYMENTS}/m5-pods?fieldManager=kubectl-edit", selector)
    with bed.operator():
        wait(
            lambda: data_of(bed, "m3-echo") == before and not selector_of(bed), 20, lambda: str(bed.writes(since=since))
        )
        bed.assert_silent()
    written = sorted((one.resource, one.name) for one in bed.writes(since=since) if one.resource != "events")
    assert written == [("configmaps", "m3-echo"), *[("deployments", "m5-pods")] * 3]


def test_what_others_change_of_ours_is_repaired_and_the_rest_left_alone(bed: Bed) -> None:
    bed.create(1)
    with bed.operator():
        bed.converge(1, 30)
        bed.assert_silent(quiet_s=1)  # Events of what was made come behind it
        since = moment_ago()
        bed.api.patch(f"{MAPS}/m0-echo", {"metadata": {"annotations": {"mine": "1"}}, "data": {"extra": "x"}})
        bed.api.patch(f"{DEPLOYMENTS}/m0-pods", {"spec": {"paused": True, "minReadySeconds": 3}})
        bed.assert_silent()
        assert bed.writes(since=since) == [], "what we never applied is not ours to repair"
        bed.api.patch(f"{MAPS}/m0-echo", {"data": {"replicas": "99"}})
        wait(lambda: data_of(bed, "m0-echo")["replicas"] == "1", 15, lambda: "the ConfigMap is not repaired")
        bed.api.patch(f"{DEPLOYMENTS}/m0-pods", {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "evil"}]}}}}, how="strategic")  # fmt: skip  # noqa: E501
        wait(lambda: _image(bed) == "none", 15, lambda: "the Deployment is not repaired")
        bed.api.delete(f"{MAPS}/m0-echo")
        wait(lambda: bed.api.exists(f"{MAPS}/m0-echo"), 15, lambda: "the ConfigMap is not made again")
        bed.assert_silent(quiet_s=3)
    assert [one.resource for one in bed.writes(since=since)].count("configmaps") == 2
    assert data_of(bed, "m0-echo").keys() == {"replicas", "generation"}


def _image(bed: Bed) -> str:
    spec = bed.api.get(f"{DEPLOYMENTS}/m0-pods")["spec"]["template"]["spec"]
    return str(spec["containers"][0]["image"])


def test_an_undone_status_is_written_again(bed: Bed) -> None:
    bed.create(1)
    with bed.operator():
        bed.converge(1, 30)
        bed.api.patch(f"{OBJECTS}/m0/status", {"status": {"replicas": 77, "observedGeneration": 0}})
        bed.converge(1, 15)
        bed.assert_silent(quiet_s=3)


def test_deleted_objects_leave_nothing_and_their_keys_stay_quiet(bed: Bed) -> None:
    with bed.operator() as operator:
        bed.create(5)
        bed.converge(5, 30)
        bed.api.delete(OBJECTS)
        wait(lambda: not bed.api.get(CHILDREN)["items"], 60, lambda: "children are left")
        bed.assert_silent(quiet_s=3)
        assert "echo_children" not in operator.metrics()


def test_an_action_that_is_refused_shows_in_status_and_as_an_event(bed: Bed) -> None:
    bed.create(1)
    annotations = f"{OBJECTS}/m0"
    bed.api.patch(annotations, {"metadata": {"annotations": {"echo-key": "no such key!"}}})
    with bed.operator():
        wait(lambda: _reason(bed, "m0") == "Rejected", 20, lambda: str(bed.api.get(f"{OBJECTS}/m0")))
        condition = bed.api.get(f"{OBJECTS}/m0")["status"]["conditions"][0]
        assert "a valid config key must consist of" in condition["message"]
        wait(lambda: "Rejected" in _events(bed, "m0"), 15, lambda: str(_events(bed, "m0")))
        wait(lambda: _tries(bed) > 3, 15, lambda: "it is not tried again")
        since = moment_ago()
        time.sleep(4)
        tried = {one.status for one in bed.writes(since=since) if one.resource != "events"}
        assert tried <= {422}, "only the refused action is tried again"
        bed.api.patch(annotations, {"metadata": {"annotations": {"echo-key": None}}})
        bed.converge(1, 15)
        wait(lambda: _reason(bed, "m0") == "Echoed", 15, lambda: _reason(bed, "m0"))
        bed.assert_silent(quiet_s=3)


def test_a_lasting_403_is_reported_too(bed: Bed) -> None:
    quota = "/api/v1/namespaces/default/resourcequotas"
    bed.api.request("POST", quota, {"metadata": {"name": "none"}, "spec": {"hard": {"count/deployments.apps": "0"}}})
    try:
        bed.create(1)
        with bed.operator():
            wait(lambda: _reason(bed, "m0") == "Rejected", 30, lambda: str(bed.api.get(f"{OBJECTS}/m0")))
            assert "exceeded quota" in bed.api.get(f"{OBJECTS}/m0")["status"]["conditions"][0]["message"]
    finally:
        bed.api.delete(f"{quota}/none")


def test_a_passing_state_is_posted_once(bed: Bed) -> None:
    bed.create(1)
    with bed.operator():
        bed.converge(1, 30)
        wait(lambda: _events(bed, "m0") == ["Echoed"], 15, lambda: str(_events(bed, "m0")))
        bed.change(1, replicas=3)
        bed.converge(1, 15)
        bed.assert_silent(quiet_s=1)
    assert _events(bed, "m0") == ["Echoed"]


def _tries(bed: Bed) -> int:
    return sum(one.status == 422 for one in bed.writes())


def _reason(bed: Bed, name: str) -> str:
    conditions = bed.api.get(f"{OBJECTS}/{name}").get("status", {}).get("conditions") or [{}]
    return str(conditions[0].get("reason"))


def _events(bed: Bed, name: str) -> list[str]:
    uid = bed.api.get(f"{OBJECTS}/{name}")["metadata"]["uid"]
    return [one["reason"] for one in bed.api.get(EVENTS)["items"] if one["regarding"].get("uid") == uid]
