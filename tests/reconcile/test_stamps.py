"""What an operator that has just started need not apply: what stands there as the one before it applied it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from batchwright_operator.kube.objects import CONFIG_MAP, DEPLOYMENT, SECRET, SERVICE, Raw, Resource
from batchwright_operator.reconcile.stamps import is_as_stamped, is_same, stamped
from batchwright_worker.api.names import ANNOTATION_APPLIED

US = "us"


def body(**parts: Any) -> Raw:
    owner = {"apiVersion": "g/v1", "kind": "ModelDeployment", "name": "ocr", "uid": "1", "controller": True}
    head = {"name": "ocr", "namespace": "n", "labels": {"a": "b"}, "ownerReferences": [owner]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": head, **parts}


SPEC: Raw = {"ports": [{"name": "http", "port": 8000}], "selector": {"app": "x"}, "paused": False, "ingress": []}


def served(sent: Raw) -> Raw:
    """As the API server has it: with defaults, and without what is empty."""
    found = copy.deepcopy(stamped(sent))
    found["metadata"] |= {"uid": "u", "resourceVersion": "5"}
    found["spec"]["ports"][0] |= {"protocol": "TCP"}
    found["spec"] |= {"clusterIP": "10.0.0.1"}
    del found["spec"]["paused"], found["spec"]["ingress"]
    return found


def unchanged(live: Raw) -> None:
    """Nobody did anything."""


def annotated(live: Raw) -> None:
    live["metadata"]["annotations"]["mine"] = "1"


def selected(live: Raw) -> None:
    live["spec"]["selector"]["b"] = "c"


def without_label(live: Raw) -> None:
    live["metadata"]["labels"] = {}


def moved_port(live: Raw) -> None:
    live["spec"]["ports"][0]["port"] = 80


def more_ports(live: Raw) -> None:
    live["spec"]["ports"].append({"port": 1})


def adopted(live: Raw) -> None:
    live["metadata"]["ownerReferences"][0]["uid"] = "2"


def leaving(live: Raw) -> None:
    live["metadata"]["deletionTimestamp"] = "2026-12-01T00:00:00Z"


def unstamped(live: Raw) -> None:
    del live["metadata"]["annotations"][ANNOTATION_APPLIED]


@pytest.mark.parametrize(("change", "stands"), [
    (unchanged, True), (annotated, True), (selected, False), (without_label, False), (moved_port, False),
    (more_ports, False), (adopted, False), (leaving, False), (unstamped, False),
])  # fmt: skip
def test_what_stands_as_it_was_applied_is_not_applied_again(change: Callable[[Raw], None], stands: bool) -> None:
    sent = body(spec=SPEC)
    live = served(sent)
    change(live)
    assert is_as_stamped(SERVICE, sent, live, US) is stands


def test_another_body_is_applied_though_all_of_it_stands_there() -> None:
    """What the one before had more of is taken away by an apply alone."""
    before, now = body(spec={**SPEC, "sessionAffinity": "ClientIP"}), body(spec=SPEC)
    assert is_as_stamped(SERVICE, before, served(before), US)
    assert not is_as_stamped(SERVICE, now, served(before), US)


def test_of_a_deployment_the_accounts_are_asked_for_what_others_added() -> None:
    sent = body(spec=SPEC)
    live = served(sent)
    assert not is_as_stamped(DEPLOYMENT, sent, live, US), "the cache has no accounts"
    live["metadata"]["managedFields"] = []
    assert is_as_stamped(DEPLOYMENT, sent, live, US)
    added = {"f:spec": {"f:template": {"f:spec": {"f:nodeSelector": {}}}}}
    live["metadata"]["managedFields"] = [{"manager": "kubectl-edit", "operation": "Update", "fieldsV1": added}]
    assert not is_as_stamped(DEPLOYMENT, sent, live, US)


def secret(*fields: str, manager: str = US) -> Raw:
    found = stamped(body(data={"token": "dA=="}))
    written = {"manager": manager, "operation": "Apply", "fieldsV1": {"f:data": {f"f:{name}": {} for name in fields}}}
    return {"metadata": found["metadata"] | {"managedFields": [written]}}


@pytest.mark.parametrize(("live", "stands"), [
    (secret("token"), True), (secret("token", "more"), True), (secret(), False), (secret("token", manager="x"), False),
])  # fmt: skip
def test_a_secret_is_known_by_who_applies_its_values(live: Raw, stands: bool) -> None:
    assert is_as_stamped(SECRET, body(data={"token": "dA=="}), live, US) is stands


def test_the_stamp_is_of_the_body_without_it_and_leaves_the_body_as_it_was() -> None:
    plain = body(spec=SPEC)
    before = copy.deepcopy(plain)
    once = stamped(plain)
    assert plain == before
    assert once["metadata"]["annotations"] == stamped(body(spec=SPEC))["metadata"]["annotations"]
    assert once["metadata"]["labels"] == {"a": "b"}


@pytest.mark.parametrize("resource", [SERVICE, CONFIG_MAP])
def test_a_body_that_is_nobody_s_is_compared_all_the_same(resource: Resource) -> None:
    sent = body(spec=SPEC)
    del sent["metadata"]["ownerReferences"]
    assert is_as_stamped(resource, sent, served(sent), US)


@pytest.mark.parametrize(("ours", "theirs", "same"), [
    (False, None, True), ([], None, True), ({}, None, True), ("", None, True), (0, None, True), (None, None, True),
    (1, None, False), (True, None, False), ({"a": False}, {}, True), ({}, {"a": 1}, False), ([False], [None], True),
    ([1], [1, 2], False), ("1", 1, False), ("1000m", "1", False),
    ({"requests": {"cpu": "1000m"}}, {"requests": {"cpu": "1"}}, True),
    ({"requests": {"cpu": "1000m"}}, {"requests": {"cpu": "2"}}, False),
    ({"limits": {"memory": "1024Mi"}}, {"limits": {"memory": "1Gi"}}, True),
])  # fmt: skip
def test_what_is_empty_may_be_left_out(ours: Any, theirs: Any, same: bool) -> None:
    assert is_same(ours, theirs) is same
