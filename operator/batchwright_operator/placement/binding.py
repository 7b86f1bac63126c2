"""Binding of pods: the patch that takes the gate off together with what was decided. Pure.

Every patch carries the resourceVersion that was decided on: a pod that has changed since is decided again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from batchwright_operator.kube.objects import POD, Raw
from batchwright_operator.placement import receipts
from batchwright_operator.placement.evictions import eviction_annotations
from batchwright_operator.placement.placed_pods import PlacedPod
from batchwright_operator.processors.nodes import NodeInfo
from batchwright_operator.reconcile.decisions import Delete, Patch
from batchwright_worker.api.messages import LoadTableRow, Receipt
from batchwright_worker.api.names import (
    ANNOTATION_EMULATED_DEVICE,
    ANNOTATION_LOAD_TABLE,
    ANNOTATION_RECEIPT,
    ANNOTATION_WAITING,
    SCHEDULING_GATE,
)

Pin: TypeAlias = Literal["Nomination", "Affinity"]
FEW: Final = 20
"""So many waiting pods are nominated to their nodes. A nomination is a write of its own, and the API server is what a
burst waits for."""


def pin_for(setting: Literal["Auto", "Nomination", "Affinity"], waiting: int) -> Pin:
    """How to get so many waiting pods to their nodes."""
    if setting == "Auto":
        return "Nomination" if waiting <= FEW else "Affinity"
    return setting


def bind(
    pod: PlacedPod, receipt: Receipt, node: NodeInfo, load_table: Sequence[LoadTableRow] = (), *, pin: Pin
) -> Patch:
    """The gate removed, with the node (see `Settings.placement_pin`), the receipt, and the processor's load table: on
    the pod itself, since in the template it would replace every pod when a processor is measured anew."""
    annotations: Raw = {ANNOTATION_RECEIPT: receipts.render(receipt)}
    if load_table:
        annotations[ANNOTATION_LOAD_TABLE] = msgspec.json.encode(load_table).decode()
    if node.emulated_device:
        annotations[ANNOTATION_EMULATED_DEVICE] = node.emulated_device
    if pin == "Nomination":
        return msgspec.structs.replace(_ungate(pod, annotations, {}), nominated_node=node.name)
    return _ungate(pod, annotations, {"affinity": {"nodeAffinity": _affinity(pod, node.name)}})


def release(pod: PlacedPod, receipt: Receipt) -> Patch:
    """The gate removed without a node: the scheduler (or a cluster autoscaler) decides."""
    return _ungate(pod, {ANNOTATION_RECEIPT: receipts.render(receipt)}, {})


def annotate_pending(pod: PlacedPod, why: receipts.PendingReason) -> Patch:
    """The reason why it still waits, on the pod itself."""
    return _patch(pod, {"metadata": {"annotations": {ANNOTATION_WAITING: why.render()}}})


def undo(pod: PlacedPod) -> Delete:
    """The deletion of a refused pod. Its affinity is final, so the ReplicaSet has to make a new one without."""
    # Only as it was seen: one that the scheduler has bound since is left to run. No grace period is asked for: a pod
    # without a node is deleted at once, and one with a node must not be, as its kubelet still runs it.
    return Delete(
        resource=POD, namespace=pod.namespace, name=pod.name, uid=pod.uid, resource_version=pod.resource_version
    )


def _ungate(pod: PlacedPod, annotations: Raw, spec: Raw) -> Patch:
    """Adds to these annotations, which are the patch's own."""
    annotations |= eviction_annotations(pod.raw)
    if pod.waiting is not None:
        annotations[ANNOTATION_WAITING] = None
    removed = [{"$patch": "delete", "name": SCHEDULING_GATE}]
    return _patch(pod, {"metadata": {"annotations": annotations}, "spec": {"schedulingGates": removed, **spec}})


def _affinity(pod: PlacedPod, node: str) -> Raw:
    """The pod's own required node terms, each narrowed to this node: of a gated pod the API server lets affinity be
    tightened only."""
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    affinity = ((pod.raw.get("spec") or {}).get("affinity") or {}).get("nodeAffinity") or {}
    own: list[dict[str, Any]] = (affinity.get(key) or {}).get("nodeSelectorTerms") or [{}]
    this_node = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {key: {"nodeSelectorTerms": [{**t, "matchFields": [*t.get("matchFields", []), this_node]} for t in own]}}


def _patch(pod: PlacedPod, body: Raw) -> Patch:
    return Patch(
        resource=POD, namespace=pod.namespace, name=pod.name, patch=body, resource_version=pod.resource_version
    )
