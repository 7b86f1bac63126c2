"""What a cluster refuses (ResourceQuota, LimitRange, Pod Security, policies, webhooks) on a real API server: the object
says so in the words of who refused and with what helps, is tried again without a hot loop, holds up nobody else, and
goes on when the obstacle is gone.

All obstacles stand at the same time, each in a namespace of its own, so that the waits of all are one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from batchwright_operator.kube.client import path_of
from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import DEPLOYMENT, INFERENCE_JOB, JOB, MODEL_DEPLOYMENT, POD, PVC, Raw, Resource
from e2e.cluster import ApiError, ControlPlane
from e2e.cluster.control_plane import audit
from e2e.cluster.machine.ports import free_port
from tests.deployments import webhooks
from tests.deployments.real_api import OPERATOR, Kubectl, eventually, namespace, operator, service_account
from tests.deployments.test_ownership import RECONCILERS, wanted, wanted_job

pytestmark = pytest.mark.apiserver

QUIET_S = 5.0
ATTEMPTS = 12
"""Writes of the operator in QUIET_S beside an obstacle: back-off makes few of them, a hot loop hundreds."""
ROOT_USER = {"securityContext": {"runAsUser": 0, "runAsNonRoot": False}}
RESTRICTED = {
    "restartPolicy": "Never",
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "a",
            "image": "a",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}
"""A pod that Pod Security lets pass."""
POLICIES = "/apis/admissionregistration.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Refused:
    """`words` of who refuses, and `remedy`: some of what is said to help; `as_root`: only another spec does."""

    words: str
    remedy: str
    as_root: bool = False


CASES = {
    "quota": Refused("exceeded quota: none", "raise the ResourceQuota"),
    "limits": Refused("minimum memory usage per Container is 64Gi", "within the namespace's LimitRange"),
    "limits-by-default": Refused("must be less than or equal to memory limit", "a LimitRange's default"),
    "pod-security": Refused("violates PodSecurity", "correct the securityContext", as_root=True),
    "no-pods": Refused("no pods on Mondays", "what that policy names"),
    "no-children": Refused("on Mondays", "what that policy names"),
    "webhook-says-no": Refused(webhooks.WORDS, "what that webhook names"),
    "webhook-says-500": Refused(webhooks.WORDS, "what that webhook names"),
    "webhook-away": Refused("failed calling webhook", "repair it"),
}
KINDS = {"mod": MODEL_DEPLOYMENT, "inf": INFERENCE_JOB}
PLACES = [f"{case}-{kind}" for case in CASES for kind in KINDS]


def case_of(place: str) -> Refused:
    return CASES[place[:-4]]


def resource_of(place: str) -> Resource:
    return KINDS[place[-3:]]


def policy(kind: str, group: str, place: str) -> list[tuple[str, Raw]]:
    """Nobody may make objects of this kind in the namespace."""
    name = f"no-{kind}-in-{place}"
    rule = {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [kind]}
    constraints = {
        "resourceRules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place}},
    }
    says = [{"expression": "false", "message": f"no {kind} on Mondays"}]
    binding = {"policyName": name, "validationActions": ["Deny"]}
    return [
        (f"{POLICIES}/validatingadmissionpolicies",
         {"metadata": {"name": name}, "spec": {"matchConstraints": constraints, "validations": says}}),
        (f"{POLICIES}/validatingadmissionpolicybindings", {"metadata": {"name": name}, "spec": binding}),
    ]  # fmt: skip


def limit_range(place: str, amounts: Raw) -> tuple[str, Raw]:
    body = {"metadata": {"name": "odd"}, "spec": {"limits": [{"type": "Container", **amounts}]}}
    return f"/api/v1/namespaces/{place}/limitranges", body


class World:
    """All namespaces with their obstacles."""

    def __init__(self, plane: ControlPlane, stack: ExitStack) -> None:
        self.plane, self.api = plane, plane.api
        self._stack = stack
        self._obstacles = {place: self._obstacle(place) for place in PLACES}
        self.are_there = True

    def _obstacle(self, place: str) -> list[tuple[str, Raw]]:
        name = place[:-4]
        match name:
            case "quota":
                body: Raw = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
                return [(f"/api/v1/namespaces/{place}/resourcequotas", body)]
            case "limits" | "limits-by-default":
                amounts = {"min": {"memory": "64Gi"}} if name == "limits" else {"max": {"memory": "16Mi"}}
                return [limit_range(place, amounts)]
            case "no-pods":
                return policy("pods", "", place)
            case "no-children":
                return policy("deployments", "apps", place) + policy("jobs", "batch", place)
            case "pod-security":
                return []
        return [(webhooks.CONFIGURATIONS, webhooks.configuration(place, self._webhook(name)))]

    def _webhook(self, name: str) -> Raw:
        if name == "webhook-away":
            return webhooks.client_config(free_port())
        return self._stack.enter_context(webhooks.saying_no(500 if name.endswith("500") else 403))

    def raise_all(self) -> None:
        for each in self._obstacles.values():
            for path, body in each:
                self.api.request("POST", path, body)
        for place in PLACES:
            if self._obstacles[place] and not place.startswith(("quota", "limits")):
                eventually(partial(self._is_in_force, place), f"what refuses in {place}")

    def _is_in_force(self, place: str) -> bool:
        """It is looked at some moments after it was made."""
        pod = {"metadata": {"name": "probe"}, "spec": RESTRICTED}
        job = {"metadata": {"name": "probe"}, "spec": {"template": {"spec": RESTRICTED}}}
        for resource, body in ((POD, pod), (JOB, job)):
            try:
                self.api.request("POST", f"{path_of(resource, place)}?dryRun=All", body)
            except ApiError as error:
                if case_of(place).words in str(error):
                    return True
        return False

    def lift_all(self) -> None:
        """Whoever can does what the remedies say."""
        if self.are_there:
            self.are_there = False
            for each in self._obstacles.values():
                for path, body in each:
                    self.api.delete(f"{path}/{body['metadata']['name']}")

    def make(self, place: str) -> None:
        """The object, and the claim that a job's data are on."""
        resource = resource_of(place)
        raw = wanted("refused") if resource == MODEL_DEPLOYMENT else wanted_job("refused")
        raw["metadata"]["namespace"] = place
        if case_of(place).as_root:
            pod = raw["spec"] if resource == MODEL_DEPLOYMENT else raw["spec"].setdefault("runner", {})
            pod["pod"] = ROOT_USER
        storage = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        self.api.request("POST", path_of(PVC, place), {"metadata": {"name": "data"}, "spec": storage})
        self.api.request("POST", path_of(resource, place), raw)

    def remove(self) -> None:
        """Other tests use this API server, whose operators would find them."""
        for place in PLACES:
            self.api.delete(path_of(resource_of(place), place, "refused"))

    def text(self, place: str, name: str = "refused") -> str:
        """What the conditions say that a user looks at first."""
        conditions = (self.api.get(path_of(resource_of(place), place, name)).get("status") or {}).get("conditions")
        kinds = ("Ready", "Reconciling", "Stalled")
        return " ".join(str(find(conditions or (), each).get("message", "")) for each in kinds)

    def has_pods(self, place: str) -> bool:
        return bool(self.api.get(path_of(POD, place))["items"])


@pytest.fixture(scope="module")
def world(with_crds: Kubectl, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("operator")
    for place in [*PLACES, "free-mod"]:
        namespace(with_crds, place)
    with ExitStack() as stack:
        world = World(control_plane, stack)
        world.raise_all()
        stack.enter_context(
            operator(service_account(with_crds, control_plane), folder, *RECONCILERS, BATCHWRIGHT_RESYNC_SECONDS="5")
        )
        for place in PLACES:
            world.make(place)
        yield world
        world.lift_all()
        world.remove()
    assert "Traceback" not in (folder / "operator.log").read_text()


@pytest.mark.parametrize("place", PLACES)
def test_a_refusal_is_told_with_what_helps(place: str, world: World) -> None:
    refused = case_of(place)
    eventually(lambda: refused.words in world.text(place), f"{refused.words!r} in the status", within_s=120)
    assert refused.remedy in world.text(place)


def test_it_is_tried_again_slowly(world: World) -> None:
    since = datetime.now(UTC)
    time.sleep(QUIET_S)
    written = list(audit.writes(world.plane.audit_log_path, user=OPERATOR, since=since))
    for place in PLACES:
        found = [each for each in written if each.namespace == place and each.resource != "events"]
        assert len(found) <= ATTEMPTS, [(each.verb, each.resource, each.name) for each in found]


def test_nobody_else_waits_for_it(world: World) -> None:
    """Not even for webhooks that are away, which the API server reports as errors of its own."""
    raw = wanted("free")
    raw["metadata"]["namespace"] = "free-mod"
    world.api.request("POST", path_of(MODEL_DEPLOYMENT, "free-mod"), raw)
    eventually(partial(world.has_pods, "free-mod"), "pods of one that nothing refuses", within_s=30)


@pytest.mark.parametrize("place", [each for each in PLACES if not case_of(each).as_root])
def test_it_is_over_when_it_is_over(place: str, world: World) -> None:
    world.lift_all()
    child = DEPLOYMENT if resource_of(place) == MODEL_DEPLOYMENT else JOB
    eventually(partial(world.has_pods, place), "pods", within_s=240)
    assert world.api.get(path_of(child, place))["items"]
    words = case_of(place).words
    eventually(lambda: words not in world.text(place), "a status without the refusal", within_s=120)
