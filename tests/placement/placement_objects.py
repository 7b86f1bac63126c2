"""Builders of raw Kubernetes objects for the placement tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from batchwright_operator.kube.objects import DEPLOYMENT, MODEL_DEPLOYMENT, NODE, POD, REPLICA_SET, Raw, Resource
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.reconcile.decisions import Patch
from batchwright_worker.api.names import (
    ANNOTATION_KIND,
    COMPONENT_MODEL,
    KIND_CPU,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_KIND,
    SCHEDULING_GATE,
    kind_slug,
)

NOW = 1_800_000_000.0


def node(
    name: str,
    *,
    cpu: str = "4",
    ready: bool = True,
    labels: dict[str, str] | None = None,
    taints: Iterable[Raw] = (),
    cordoned: bool = False,
    **more: str,
) -> Raw:
    """A Node; `more` are further allocatable resources."""
    spec: Raw = {"taints": list(taints), "unschedulable": cordoned}
    allocatable = {"cpu": cpu, "memory": "8Gi", "pods": "110", **more}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels or {}},
        "spec": spec,
        "status": {"allocatable": allocatable, "capacity": allocatable, "conditions": conditions},
    }


def profile(
    name: str, capacity: str | None = "100.0", *, kind: str = KIND_CPU, services: int = 4, reason: str = ""
) -> Raw:
    """An AcceleratorProfile with one processor; capacity None: not benchmarked, for `reason`."""
    processor: Raw = {"kind": kind, "reason": reason or "Benchmarked"}
    if capacity is not None:
        row = {"batchSize": 8, "imagesPerSecond": capacity, "maxServices": services}
        processor |= {"capacityImagesPerSecond": capacity, "loadTable": [row]}
    return {"metadata": {"name": name}, "status": {"processors": [processor]}}


def deployment(name: str = "ocr", *, replicas: int = 1, kind: str = KIND_CPU, placement: Raw | None = None,
               targets: Raw | None = None, emulated: Raw | None = None) -> Raw:  # fmt: skip
    """A ModelDeployment with one model for one kind."""
    artifact: Raw = {"accelerator": kind, "format": "onnx", "uri": "pvc://models/m.onnx"}
    if emulated is not None:
        artifact = {"accelerator": kind, "format": "emulated", "emulated": emulated}
    model: Raw = {"name": "m", "artifacts": [artifact]}
    if targets:
        model["targets"] = targets
    spec: Raw = {"replicas": replicas, "models": [model]}
    if placement:
        spec["placement"] = placement
    return {"metadata": {"name": name, "namespace": "user", "uid": f"uid-{name}"}, "spec": spec}


def pod(
    name: str, *, owner: str = "ocr", kind: str = KIND_CPU, age_s: float = 1.0, cpu: str = "100m", **changes: Any
) -> Raw:
    """A gated model pod; `changes` replace parts of its spec."""
    limits = {} if kind == KIND_CPU else {kind: "1"}
    container = {"name": "runtime", "resources": {"requests": {"cpu": cpu, "memory": "256Mi"}, "limits": limits}}
    return {
        "metadata": {
            "name": name,
            "namespace": "user",
            "uid": f"uid-{name}",
            "resourceVersion": "7",
            "creationTimestamp": rfc3339(NOW - age_s),
            "labels": {
                LABEL_COMPONENT: COMPONENT_MODEL,
                LABEL_DEPLOYMENT: owner,
                LABEL_KIND: kind_slug(kind),
                "pod-template-hash": "x",
            },
            "annotations": {ANNOTATION_KIND: kind},
            "ownerReferences": [_reference("ReplicaSet", f"{owner}-rs")],
        },
        "spec": {"containers": [container], "schedulingGates": [{"name": SCHEDULING_GATE}], **changes},
        "status": {},
    }


def _reference(kind: str, name: str) -> Raw:
    return {"kind": kind, "name": name, "uid": f"uid-{name}", "controller": True}


def forged(name: str, **how: Any) -> Raw:
    """A pod with everything that a model pod has but an owner."""
    raw = pod(name, **how)
    metadata = {key: value for key, value in raw["metadata"].items() if key != "ownerReferences"}
    return {**raw, "metadata": metadata}


def applied(raw: Raw, patch: Patch, *, ready_at: float | None = None) -> Raw:
    """What the API server makes of our strategic patch of a pod (annotations, affinity, gate)."""
    metadata = dict(raw["metadata"])
    annotations = {**metadata.get("annotations", {}), **patch.patch["metadata"]["annotations"]}
    metadata["annotations"] = {name: value for name, value in annotations.items() if value is not None}
    metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
    spec = dict(raw["spec"])
    if "spec" in patch.patch:
        spec |= {**patch.patch["spec"], "schedulingGates": []}
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(ready_at)}] if ready_at else []
    return {"metadata": metadata, "spec": spec, "status": {"conditions": conditions}}


def unschedulable(raw: Raw) -> Raw:
    """The pod after the scheduler's verdict."""
    verdict = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes: port taken"}
    return {**raw, "status": {"conditions": [verdict]}}


def bound_to(patch: Patch) -> str:
    """The node that a binding patch names."""
    if patch.nominated_node:
        return patch.nominated_node
    terms = patch.patch["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    found: str = terms["nodeSelectorTerms"][0]["matchFields"][-1]["values"][0]
    return found


class Anything:
    """`Changes` of a reader that is told no more than that something may have changed."""

    def take(self) -> None:
        return None


class Facts:
    """A StoreView over plain lists of raw objects."""

    def changes(self, resource: Resource) -> Anything:
        return Anything()

    def __init__(self, objects: dict[Resource, list[Raw]]) -> None:
        self.objects = objects

    def all(self, resource: Resource, *, namespace: str | None = None) -> list[Raw]:
        found = self.objects.get(resource, [])
        return [each for each in found if namespace in (None, each["metadata"].get("namespace", ""))]

    def get(self, resource: Resource, namespace: str, name: str) -> Raw | None:
        if resource in {REPLICA_SET, DEPLOYMENT}:
            return self._between(resource, name)
        return next((each for each in self.all(resource) if each["metadata"]["name"] == name), None)

    def _between(self, resource: Resource, name: str) -> Raw | None:
        """What stands between the pods of a ModelDeployment and itself: a ReplicaSet NAME-rs, a Deployment NAME-cpu."""
        base = name.rsplit("-", 1)[0]
        if self.get(MODEL_DEPLOYMENT, "user", base) is None:
            return None
        above = ("Deployment", f"{base}-cpu") if resource == REPLICA_SET else ("ModelDeployment", base)
        metadata = {"name": name, "namespace": "user", "uid": f"uid-{name}", "ownerReferences": [_reference(*above)]}
        return {"metadata": metadata}

    def owned(self, resource: Resource, owner_uid: str) -> list[Raw]:
        return [
            each
            for each in self.all(resource)
            if any(
                ref["uid"] == owner_uid and ref.get("controller") for ref in each["metadata"].get("ownerReferences", ())
            )
        ]

    def on_node(self, node: str) -> list[Raw]:
        return [each for each in self.all(POD) if (each.get("spec") or {}).get("nodeName") == node]

    def labelled(self, resource: Resource, label: str, value: str, *, namespace: str | None = None) -> list[Raw]:
        return [
            each
            for each in self.all(resource, namespace=namespace)
            if each["metadata"].get("labels", {}).get(label) == value
        ]

    def put(self, resource: Resource, raw: Raw) -> None:
        """Adds or replaces by name."""
        others = [
            each for each in self.objects.get(resource, []) if each["metadata"]["name"] != raw["metadata"]["name"]
        ]
        self.objects[resource] = [*others, raw]


__all__ = [
    "NODE",
    "NOW",
    "POD",
    "Facts",
    "applied",
    "bound_to",
    "deployment",
    "forged",
    "node",
    "pod",
    "profile",
    "unschedulable",
]
