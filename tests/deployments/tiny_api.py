"""A small pure model of the API: enough of it to perform a decision and see what the next one finds.

It implements `reconciler.StoreView`, server-side apply of whole bodies, generations, owner references, and (by
`roll_out`) what the Deployment controller does. It counts writes that change something.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, assert_never

import pytest

from batchwright_operator.kube.objects import DEPLOYMENT, POD, REPLICA_SET, Raw, Resource
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.reconcile.decisions import Action, Apply, Create, Decision, Delete, Event, Key, Patch
from batchwright_operator.reconcile.interfaces import Reconciler
from batchwright_operator.status.progress_deadline import PROGRESS_DEADLINE_S

START = 1_800_000_000.0


class _Anything:
    """`Changes` of a reader that is told no more than that something may have changed."""

    def take(self) -> None:
        return None


class TinyApi:
    """Objects by (plural, namespace, name). `now` is its clock."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Raw] = {}
        self.now = START
        self.writes = 0
        self._applied: dict[tuple[str, str, str], frozenset[str]] = {}
        self._serial = 0

    # --- StoreView

    def get(self, resource: Resource, namespace: str, name: str) -> Raw | None:
        return self.objects.get((resource.plural, namespace, name))

    def all(self, resource: Resource, *, namespace: str | None = None) -> list[Raw]:
        return [
            obj
            for (plural, place, _), obj in sorted(self.objects.items())
            if plural == resource.plural and namespace in (None, place)
        ]

    def owned(self, resource: Resource, owner_uid: str) -> list[Raw]:
        return [each for each in self.all(resource) if owner_uid in _owners(each)]

    def on_node(self, node: str) -> list[Raw]:
        return [each for each in self.all(POD) if (each.get("spec") or {}).get("nodeName") == node]

    def changes(self, resource: Resource) -> _Anything:
        return _Anything()

    def labelled(self, resource: Resource, label: str, value: str, *, namespace: str | None = None) -> list[Raw]:
        found = self.all(resource, namespace=namespace)
        return [each for each in found if (each["metadata"].get("labels") or {}).get(label) == value]

    # --- writing

    def put(self, resource: Resource, body: Raw) -> Raw:
        """Create or replace, as a user or another controller would."""
        obj = copy.deepcopy(body)
        metadata = obj.setdefault("metadata", {})
        place = (resource.plural, metadata.get("namespace", ""), metadata["name"])
        old = self.objects.get(place)
        self._serial += 1
        metadata.setdefault("uid", old["metadata"]["uid"] if old else f"uid-{self._serial}")
        metadata.setdefault("creationTimestamp", rfc3339(self.now))
        metadata["generation"] = _generation(old, obj)
        metadata["resourceVersion"] = str(self._serial)
        obj.setdefault("apiVersion", resource.api_version)
        obj.setdefault("kind", resource.kind)
        self.objects[place] = obj
        return obj

    def perform(self, decision: Decision) -> int:
        """All actions and the status write; the number of writes that changed something."""
        before = self.writes
        for action in decision.actions:
            self._perform(action)
        if decision.status is not None:
            write = decision.status
            metadata = write.regarding["metadata"]
            obj = self.get(write.resource, metadata["namespace"], metadata["name"])
            assert obj is not None
            assert obj.get("status") != write.status, "a status write that changes nothing"
            self._replace(write.resource, obj | {"status": copy.deepcopy(write.status)})
        return self.writes - before

    def _perform(self, action: Action) -> None:
        match action:
            case Apply(resource=resource, body=body):
                self._apply(resource, body)
            case Create(resource=resource, body=body):
                if self._find(resource, body) is None:
                    self._replace(resource, body)
            case Patch(resource=resource, namespace=namespace, name=name, patch=patch):
                obj = self.get(resource, namespace, name)
                assert obj is not None
                if (merged := _merged(obj, patch)) != obj:
                    self._replace(resource, merged)
            case Delete(resource=resource, namespace=namespace, name=name, uid=uid):
                obj = self.get(resource, namespace, name)
                if obj is not None and obj["metadata"]["uid"] == uid:
                    self.remove(resource, namespace, name)
            case _:
                assert_never(action)

    def _find(self, resource: Resource, body: Raw) -> Raw | None:
        return self.get(resource, body["metadata"].get("namespace", ""), body["metadata"]["name"])

    def _apply(self, resource: Resource, body: Raw) -> None:
        old = self._find(resource, body)
        kept = {} if old is None else {name: old[name] for name in ("status",) if name in old}
        server = {} if old is None else {name: old["metadata"][name] for name in ("uid", "creationTimestamp")}
        of_others = self._annotations_of_others(resource, body, old)
        new = {**body, **kept, "metadata": {**body["metadata"], **server, **of_others}}
        if old is None or _without_server_fields(old) != _without_server_fields(new):
            self._replace(resource, new)

    def _annotations_of_others(self, resource: Resource, body: Raw, old: Raw | None) -> Raw:
        """All annotations, with those that somebody else made: what is removed is only what we applied before."""
        at = (resource.plural, body["metadata"].get("namespace", ""), body["metadata"]["name"])
        mine = body["metadata"].get("annotations") or {}
        before, self._applied[at] = self._applied.get(at, frozenset()), frozenset(mine)
        theirs = (old["metadata"].get("annotations") or {}) if old is not None else {}
        merged = {**{name: value for name, value in theirs.items() if name not in before}, **mine}
        return {"annotations": merged} if merged else {}

    def _replace(self, resource: Resource, obj: Raw) -> None:
        self.writes += 1
        self.put(resource, obj)

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Delete, with all that it owns (background propagation, at once)."""
        gone = self.objects.pop((resource.plural, namespace, name), None)
        self.writes += 1
        if gone is None:
            return
        uids = [gone["metadata"]["uid"]]
        while uids:
            uid = uids.pop()
            for place, obj in list(self.objects.items()):
                if uid in _owners(obj):
                    uids.append(self.objects.pop(place)["metadata"]["uid"])

    # --- other controllers

    def roll_out(self) -> None:
        """What the Deployment controller does, done at once: pods of the newest template, and its status."""
        for deployment in self.all(DEPLOYMENT):
            wanted, template = deployment["spec"]["replicas"], deployment["spec"]["template"]
            replica_set = self.replica_set(deployment)["metadata"]["uid"]
            pods = self.owned(POD, replica_set)
            for pod in [each for each in pods if each["spec"] != _pod_spec(each, template)][:]:
                self.objects.pop((POD.plural, pod["metadata"]["namespace"], pod["metadata"]["name"]))
            pods = sorted(self.owned(POD, replica_set), key=lambda pod: "nodeName" not in pod["spec"])
            for pod in pods[wanted:]:
                self.objects.pop((POD.plural, pod["metadata"]["namespace"], pod["metadata"]["name"]))
            for _ in range(wanted - len(pods)):
                self._pod(deployment)
            status = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wanted)
            status["observedGeneration"] = deployment["metadata"]["generation"]
            self.put(DEPLOYMENT, deployment | {"status": status})

    def replica_set(self, deployment: Raw) -> Raw:
        """The one ReplicaSet of a Deployment."""
        metadata = deployment["metadata"]
        head = {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": metadata.get("labels") or {},
            "ownerReferences": [_reference(DEPLOYMENT, deployment)],
        }
        return self.get(REPLICA_SET, metadata["namespace"], metadata["name"]) or self.put(
            REPLICA_SET, {"metadata": head}
        )

    def _pod(self, deployment: Raw) -> None:
        template, metadata = deployment["spec"]["template"], deployment["metadata"]
        self._serial += 1
        owner = _reference(REPLICA_SET, self.replica_set(deployment))
        head = {
            **template["metadata"],
            "name": f"{metadata['name']}-{self._serial}",
            "namespace": metadata["namespace"],
            "ownerReferences": [owner],
        }
        self.put(POD, {"metadata": head, "spec": copy.deepcopy(template["spec"]), "status": {"phase": "Pending"}})

    def pods(self) -> Iterator[Raw]:
        """All pods, by name."""
        yield from self.all(POD)

    def place(self, pod: Raw, node: str) -> Raw:
        """Placement and the scheduler: no gate, a node."""
        spec = {name: value for name, value in pod["spec"].items() if name != "schedulingGates"} | {"nodeName": node}
        return self.put(POD, pod | {"spec": spec})

    def start(self, pod: Raw, *, ready: bool = True) -> Raw:
        """The kubelet: its sidecar runs, and it is ready."""
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        sidecar = {"name": "sidecar", "state": {"running": {"startedAt": rfc3339(self.now)}}, "ready": ready}
        status = {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [condition],
            "initContainerStatuses": [sidecar],
        }
        return self.put(POD, pod | {"status": status})


def _reference(resource: Resource, owner: Raw) -> Raw:
    metadata = owner["metadata"]
    return {"kind": resource.kind, "name": metadata["name"], "uid": metadata["uid"], "controller": True}


def _pod_spec(pod: Raw, template: Raw) -> Any:
    """The pod's spec as it would be of this template, with what placement did to it."""
    spec = dict(template["spec"])
    if "nodeName" in pod["spec"]:
        spec = {name: value for name, value in spec.items() if name != "schedulingGates"}
        spec["nodeName"] = pod["spec"]["nodeName"]
    return spec


def _owners(obj: Raw) -> list[str]:
    return [each["uid"] for each in obj["metadata"].get("ownerReferences") or () if each.get("controller")]


def _generation(old: Raw | None, new: Raw) -> int:
    if old is None:
        return 1
    generation = int(old["metadata"]["generation"])
    return generation + 1 if old.get("spec") != new.get("spec") else generation


def _without_server_fields(obj: Raw) -> Raw:
    dropped = ("uid", "generation", "resourceVersion", "creationTimestamp")
    metadata = {name: value for name, value in obj["metadata"].items() if name not in dropped}
    return obj | {"metadata": metadata}


def _merged(value: Any, patch: Any) -> Any:
    """JSON merge patch."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), change)
    return merged


class SmallWorld:
    """A small API, and the reconciler of one of its objects."""

    def __init__(self, reconciler: Reconciler[Any], key: Key) -> None:
        self.api = TinyApi()
        self.reconciler = reconciler
        self.key = key

    def decide(self) -> Decision:
        observed = self.reconciler.observe(self.api, self.key)
        assert observed is not None
        return self.reconciler.decide(observed, self.api.now)

    def settle(self) -> list[Event]:
        """Decide and perform until nothing is written any more; the events on the way."""
        events: list[Event] = []
        for _ in range(10):
            decision = self.decide()
            events += decision.events
            if not self.api.perform(decision):
                return events
        pytest.fail("does not settle")

    def late(self) -> list[Event]:
        """Nothing moves until the progress deadline is over."""
        self.api.now += PROGRESS_DEADLINE_S
        return self.settle()
