"""What server-side apply cannot bring back, and whose an object is that nobody controls."""

from __future__ import annotations

import pytest

from batchwright_operator.errors import Invalid
from batchwright_operator.kube.objects import CONFIG_MAP, DEPLOYMENT, PDB, SECRET, SERVICE, Raw
from batchwright_operator.reconcile.mending import has_to_go, may_help, patch_of
from batchwright_operator.reconcile.ownership import is_orphan

OURS = {"app.kubernetes.io/managed-by": "batchwright", "batchwright.dev/deployment": "ocr"}


def test_what_others_wrote_goes_where_the_part_is_ours_alone_and_stays_elsewhere() -> None:
    budget = patch_of(PDB, {"spec": {"maxUnavailable": 1}}, {"spec": {"maxUnavailable": 1, "minAvailable": 1}})
    assert budget == {"spec": {"maxUnavailable": 1, "minAvailable": None}}
    ports = [{"name": "http", "port": 8000}]
    live = {"spec": {"clusterIP": "10.0.0.1", "ports": [*ports, {"name": "http", "port": 80}]}}
    assert patch_of(SERVICE, {"kind": "Service", "metadata": {}, "spec": {"ports": ports}}, live) == {
        "spec": {"ports": ports}
    }, "its address stays"
    body = {"spec": {"strategy": {"type": "Recreate"}, "template": {"metadata": {}, "spec": {"volumes": []}}}}
    theirs: Raw = {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}, "minReadySeconds": 5}
    theirs["template"] = {"metadata": {"annotations": {"a": "b"}}, "spec": {"hostNetwork": True, "volumes": [{}]}}
    assert patch_of(DEPLOYMENT, body, {"spec": theirs}) == {
        "spec": {
            "strategy": {"type": "Recreate", "rollingUpdate": None},
            "template": {"metadata": {}, "spec": {"hostNetwork": None, "volumes": []}},
        }
    }, "an annotation that somebody restarted the pods by stays"


def test_only_some_kinds_are_mended_and_an_immutable_configuration_has_to_go() -> None:
    assert patch_of(SECRET, {"data": {}}, {}) is None
    assert patch_of(CONFIG_MAP, {"data": {}}, {}) is None
    assert has_to_go(CONFIG_MAP, {"immutable": True})
    assert not has_to_go(CONFIG_MAP, {"data": {}})
    assert not has_to_go(SECRET, {"immutable": True})


@pytest.mark.parametrize(("code", "message", "helps"), [
    (422, "Duplicate value", True),
    (400, "strict decoding error", False),
    (500, "failed to create typed patch object: .spec.a: field not declared in schema", False),
    (422, "spec.a: field not declared in schema", False),
])  # fmt: skip
def test_a_field_that_the_server_does_not_know_is_not_left_out_without_a_word(
    code: int, message: str, helps: bool
) -> None:
    assert may_help(Invalid(message, code=code)) == helps


def of(kind: str, labels: dict[str, str], *, controlled: bool = True) -> Raw:
    owner = [{"kind": kind, "name": "ocr", "uid": "1", "controller": True}] if controlled else []
    return {"metadata": {"name": "ocr", "labels": labels, "ownerReferences": owner}}


@pytest.mark.parametrize(("existing", "kind", "orphan"), [
    (of("", OURS, controlled=False), "ModelDeployment", True),
    (of("", OURS, controlled=False), "InferenceJob", False),
    (of("Boss", OURS), "ModelDeployment", False),
    (of("", OURS | {"batchwright.dev/deployment": "other"}, controlled=False), "ModelDeployment", False),
    (of("", {}, controlled=False), "ModelDeployment", False),
])  # fmt: skip
def test_an_orphan_has_no_controller_and_the_labels_of_our_child(existing: Raw, kind: str, orphan: bool) -> None:
    assert is_orphan(existing, of(kind, OURS)) == orphan
    assert not is_orphan(existing, of(kind, {})), "two objects without labels have nothing in common"
