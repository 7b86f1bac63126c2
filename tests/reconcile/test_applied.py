"""When applying again would change nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.kube.objects import DEPLOYMENT, Raw
from batchwright_operator.reconcile.applied import AppliedBodies, WrittenStatuses, digest, owned_part

BODY: Raw = {
    "metadata": {"name": "a", "namespace": "n", "labels": {"app": "x"}},
    "spec": {
        "replicas": 2,
        "selector": {"app": "x"},
        "template": {"containers": [{"name": "c", "cpu": "1000m"}], "tolerations": [{"key": "k"}]},
    },
}


def response(version: str = "10") -> Any:
    """What the server makes of BODY: normalized, defaulted, with fields of others."""
    live: Any = copy.deepcopy(BODY)
    live["metadata"] |= {"uid": "u", "resourceVersion": version, "annotations": {"other": "1"}}
    live["spec"]["template"]["containers"][0] |= {"cpu": "1", "image": "i"}
    live["spec"]["strategy"] = "RollingUpdate"
    return live


def changed(version: str, **changes: Any) -> Any:
    live = response(version)
    for path, value in changes.items():
        at, *rest = path.split("__")
        target = live[at]
        for step in rest[:-1]:
            target = target[int(step) if step.isdigit() else step]
        target[rest[-1]] = value
    return live


@pytest.mark.parametrize(
    ("live", "settled"),
    [
        (response("10"), True),
        (response("11") | {"status": {"ready": 1}}, True),
        (changed("11", metadata__annotations={"other": "2"}), True),
        (changed("11", spec__strategy="Recreate"), True),
        (changed("11", spec__template__containers__0__image="j"), True),
        (changed("11", metadata__deletionTimestamp="now"), True),
        (changed("11", spec__replicas=3), False),
        (changed("11", metadata__labels={}), False),
        (changed("11", metadata__labels={"app": "x", "other": "1"}), True),
        (changed("11", spec__selector={"app": "x", "other": "1"}), False),
        (changed("11", spec__template__containers__0__cpu="2"), False),
        (changed("11", spec__template__tolerations=[{"key": "k"}, {"key": "l"}]), False),
        (changed("11", metadata__uid="another"), False),
        (None, False),
    ],
)
def test_drift(live: Raw | None, settled: bool) -> None:
    applied = AppliedBodies()
    applied.remember(DEPLOYMENT, BODY, response())
    assert applied.is_settled(DEPLOYMENT, BODY, live) is settled


def test_a_new_body_is_applied_and_an_unknown_object_once() -> None:
    applied = AppliedBodies()
    assert not applied.is_settled(DEPLOYMENT, BODY, response())
    applied.remember(DEPLOYMENT, BODY, response())
    assert applied.is_same_body(DEPLOYMENT, copy.deepcopy(BODY))
    other = BODY | {"spec": {"replicas": 3}}
    assert not applied.is_settled(DEPLOYMENT, other, response())
    applied.prune(lambda resource, namespace, name: (namespace, name) == ("n", "a"))
    assert not applied.is_same_body(DEPLOYMENT, BODY)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(value=json_values)
def test_the_owned_part_of_the_body_itself_is_the_body(value: Any) -> None:
    assert owned_part(value, value) == value


@given(
    body=st.dictionaries(st.sampled_from("abc"), json_values), more=st.dictionaries(st.sampled_from("xyz"), json_values)
)
def test_fields_of_others_are_not_in_the_owned_part(body: Any, more: Any) -> None:
    assert digest(owned_part(body, {**more, **body})) == digest(body)


def test_a_status_that_the_server_reshapes_is_written_once() -> None:
    written = WrittenStatuses()
    wanted = {"replicas": 1, "note": None}
    head = {"name": "x", "namespace": "user", "uid": "u"}
    before = {"metadata": head, "status": {"observedGeneration": -1}}
    after = {"metadata": head, "status": {"replicas": 1, "observedGeneration": -1}}
    assert not written.is_settled(DEPLOYMENT, before, wanted)
    written.remember(DEPLOYMENT, wanted, after)
    assert written.is_settled(DEPLOYMENT, after, wanted)
    assert not written.is_settled(DEPLOYMENT, before, wanted), "somebody undid it"
    assert not written.is_settled(DEPLOYMENT, after, {"replicas": 2})
    assert not written.is_settled(DEPLOYMENT, {**after, "metadata": {**head, "uid": "v"}}, wanted), "made anew"
    written.prune(lambda _, namespace, name: (namespace, name) == ("user", "x"))
    assert not written.is_settled(DEPLOYMENT, after, wanted), "forgotten"


def test_an_equal_status_is_not_written_even_after_a_restart() -> None:
    stored = {"metadata": {"name": "x", "uid": "u"}, "status": {"replicas": 1, "items": [{"a": 1}]}}
    assert WrittenStatuses().is_settled(
        DEPLOYMENT, stored, {"items": [{"a": 1, "b": None}], "replicas": 1, "missing": None}
    )
