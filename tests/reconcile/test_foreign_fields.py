"""What others write into the part of a Deployment that is ours alone, by the API server's accounts."""

from __future__ import annotations

from typing import Any

import pytest

from batchwright_operator.kube.objects import DEPLOYMENT, SERVICE, Raw
from batchwright_operator.reconcile.applied import AppliedBodies
from batchwright_operator.reconcile.foreign_fields import by_whom, foreign_fields, restored

US = "us"
RUNTIME = 'k:{"name":"runtime"}'
OURS: Raw = {
    "f:containers": {RUNTIME: {".": {}, "f:name": {}, "f:image": {}, "f:env": {'k:{"name":"A"}': {"f:value": {}}}}}
}


def account(manager: str, template: Raw, *, operation: str = "Update", **more: Any) -> Raw:
    fields = {"f:spec": {"f:template": {"f:spec": template}}}
    return {"manager": manager, "operation": operation, "fieldsV1": fields, **more}


def deployment(*accounts: Raw) -> Raw:
    return {"metadata": {"managedFields": [account(US, OURS, operation="Apply"), *accounts]}}


@pytest.mark.parametrize(("written", "paths"), [
    ({"f:nodeSelector": {}}, ("nodeSelector",)),
    ({"f:hostNetwork": {}, "f:tolerations": {}}, ("hostNetwork", "tolerations")),
    ({"f:containers": {'k:{"name":"debug"}': {".": {}, "f:name": {}, "f:image": {}}}}, ("containers[debug]",)),
    ({"f:containers": {RUNTIME: {"f:env": {'k:{"name":"B"}': {".": {}, "f:value": {}}}}}},
     ("containers[runtime].env[B]",)),
    ({"f:containers": {RUNTIME: {"f:ports": {'k:{"containerPort":1,"protocol":"TCP"}': {".": {}}}}}},
     ("containers[runtime].ports",)),
    ({"f:initContainers": {".": {}, 'k:{"name":"x"}': {".": {}, "f:name": {}}}}, ("initContainers",)),
    ({"f:containers": {RUNTIME: {"f:image": {}}}}, ()),  # the same value as ours: owned by both
    ({"f:volumes": {'k:{"name":"x"}': {".": {}, "f:emptyDir": {}}}}, ("volumes",)),
])  # fmt: skip
def test_what_is_not_ours_is_named(written: Raw, paths: tuple[str, ...]) -> None:
    assert foreign_fields(DEPLOYMENT, deployment(account("kubectl-edit", written)), US).get("kubectl-edit", ()) == paths


def test_who_is_of_no_concern() -> None:
    restart = {"f:template": {"f:metadata": {"f:annotations": {"f:kubectl.kubernetes.io/restartedAt": {}}}}}
    elsewhere = {"manager": "kubectl-rollout", "operation": "Update", "fieldsV1": {"f:spec": restart}}
    by_status = account("kube-controller-manager", {"f:nodeName": {}}, subresource="status")
    assert foreign_fields(DEPLOYMENT, deployment(elsewhere, by_status), US) == {}
    assert foreign_fields(SERVICE, deployment(account("kubectl-edit", {"f:x": {}})), US) == {}
    assert foreign_fields(DEPLOYMENT, {"metadata": {}}, US) == {}


def test_what_a_patch_of_ours_once_wrote_and_no_apply_says_any_more_goes_without_a_word() -> None:
    found = foreign_fields(DEPLOYMENT, deployment(account(US, {"f:dnsPolicy": {}})), US)
    assert found == {US: ("dnsPolicy",)}
    assert restored(DEPLOYMENT, body(), found, US) is None


def body() -> Raw:
    owner = {"apiVersion": "v1", "kind": "ModelDeployment", "name": "ocr", "uid": "1", "controller": True}
    return {"metadata": {"name": "ocr-cpu", "namespace": "n", "ownerReferences": [owner]},
            "spec": {"template": {"spec": {"containers": [{"name": "runtime"}]}}}}  # fmt: skip


def test_the_owner_is_told_what_was_taken_out_and_where_it_belongs() -> None:
    event = restored(DEPLOYMENT, body(), {"kubectl-edit": ("nodeSelector",), US: ("dnsPolicy",)}, US)
    assert event is not None
    assert event.regarding["metadata"] == {"namespace": "n", "name": "ocr", "uid": "1"}
    assert event.message.startswith("Deployment ocr-cpu: nodeSelector (by kubectl-edit) was taken out")
    assert "spec.placement" in event.message


def live(version: str, **template: Any) -> Raw:
    found = body()
    found["metadata"] |= {"uid": "u", "resourceVersion": version}
    found["spec"]["template"]["spec"] |= {"restartPolicy": "Always", **template}
    return found


def test_a_field_more_is_something_to_repair_in_a_template_and_nowhere_else() -> None:
    applied = AppliedBodies()
    applied.remember(DEPLOYMENT, body(), live("1"))
    assert applied.is_settled(DEPLOYMENT, body(), live("2"))
    assert not applied.is_settled(DEPLOYMENT, body(), live("3", nodeSelector={"disk": "ssd"}))
    assert applied.is_settled(DEPLOYMENT, body(), live("4") | {"status": {"replicas": 1}})
    applied.remember(SERVICE, body(), live("1"))
    assert applied.is_settled(SERVICE, body(), live("2", sessionAffinity="ClientIP"))


@pytest.mark.parametrize(("accounts", "who"), [
    ([("us", "Apply", ""), ("kubectl-edit", "Update", "")], " (kubectl-edit)"),
    ([("us", "Apply", ""), ("hpa", "Update", "scale")], " (hpa)"),
    ([("us", "Apply", ""), ("kube-controller-manager", "Update", "status")],
     " (nobody else has an account in it: is there a second operator?)"),
    ([], ""),
])  # fmt: skip
def test_who_undoes_what_we_do_is_named_where_it_can_be_told(accounts: list[tuple[str, str, str]], who: str) -> None:
    entries = [
        {"manager": manager, "operation": operation, "subresource": subresource}
        for manager, operation, subresource in accounts
    ]
    assert by_whom({"metadata": {"managedFields": entries}}, US) == who
