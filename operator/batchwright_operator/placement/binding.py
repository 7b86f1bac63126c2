"""The patches of placement: a gate comes off together with what was decided. Pure."""

from __future__ import annotations

from typing import Any

from batchwright_operator.kube.objects import POD, Raw
from batchwright_operator.placement import receipts
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.processors.nodes import NodeInfo
from batchwright_operator.reconcile.decisions import Delete, Patch
from batchwright_worker.api.messages import Receipt
from batchwright_worker.api.names import (
    ANNOTATION_EMULATED_DEVICE,
    ANNOTATION_RECEIPT,
    ANNOTATION_WAITING,
    SCHEDULING_GATE,
)


def pin(pod: PlacedPod, receipt: Receipt, node: NodeInfo) -> Patch:
    """One patch: affinity to the node, the receipt, the gate removed."""
    annotations: Raw = {ANNOTATION_RECEIPT: receipts.render(receipt)}
    if node.emulated_device:
        annotations[ANNOTATION_EMULATED_DEVICE] = node.emulated_device
    return _ungate(pod, annotations, {"affinity": {"nodeAffinity": _only(pod, node.name)}})


def release(pod: PlacedPod, receipt: Receipt) -> Patch:
    """The gate removed without a node; the scheduler (or a cluster autoscaler) takes over."""
    return _ungate(pod, {ANNOTATION_RECEIPT: receipts.render(receipt)}, {})


def tell(pod: PlacedPod, why: receipts.PendingReason) -> Patch:
    """Why it still waits, on the pod itself."""
    return _patch(pod, {"metadata": {"annotations": {ANNOTATION_WAITING: why.render()}}})


def take_back(pod: PlacedPod) -> Delete:
    """Affinity is final, so a pick that does not fit goes with its pod; the ReplicaSet makes a new one."""
    return Delete(resource=POD, namespace=pod.namespace, name=pod.name, uid=pod.uid, grace_period_s=0)


def _ungate(pod: PlacedPod, annotations: Raw, spec: Raw) -> Patch:
    if pod.waiting is not None:
        annotations = {**annotations, ANNOTATION_WAITING: None}
    gone = [{"$patch": "delete", "name": SCHEDULING_GATE}]
    return _patch(pod, {"metadata": {"annotations": annotations}, "spec": {"schedulingGates": gone, **spec}})


def _only(pod: PlacedPod, node: str) -> Raw:
    """The pod's own required node terms, each narrowed to this node (widening is not allowed, and not wanted)."""
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    affinity = ((pod.raw.get("spec") or {}).get("affinity") or {}).get("nodeAffinity") or {}
    own: list[dict[str, Any]] = (affinity.get(key) or {}).get("nodeSelectorTerms") or [{}]
    pinned = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {key: {"nodeSelectorTerms": [{**t, "matchFields": [*t.get("matchFields", []), pinned]} for t in own]}}


def _patch(pod: PlacedPod, body: Raw) -> Patch:
    return Patch(resource=POD, namespace=pod.namespace, name=pod.name, patch=body, resource_version=pod.version)
