"""Pods as placement sees them: their node, their requests, and whether the samples show their work yet. Pure."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.quantities import Amounts, requests_of
from batchwright_operator.kube.times import unix
from batchwright_operator.placement import receipts
from batchwright_operator.placement.receipts import PendingReason
from batchwright_operator.pods.lifecycle import is_over
from batchwright_operator.pods.problems import unschedulable
from batchwright_operator.reconcile.live_state import Sample
from batchwright_worker.api.messages import Receipt
from batchwright_worker.api.names import (
    ANNOTATION_KIND,
    KIND_CPU,
    LABEL_DEPLOYMENT,
    SCHEDULING_GATE,
)

Owner: TypeAlias = tuple[str, str]
"""(namespace, name) of a ModelDeployment."""

SETTLE_S = 5.0
"""A sample taken this long after a pod became Ready shows what the pod does."""
REVISION_LABEL = "pod-template-hash"


class PlacedPod(msgspec.Struct, frozen=True, kw_only=True):
    """A replica of a ModelDeployment as placement sees it, gated or placed."""

    uid: str
    namespace: str
    name: str
    resource_version: str
    raw: Raw
    requests: Amounts
    created_at: float = 0.0
    deployment: str = ""
    kind: str = KIND_CPU
    revision: str = ""
    node: str = ""
    """Where it runs, or where its receipt says that it is to run."""
    scheduled: bool = False
    over: bool = False
    """Succeeded or failed: it uses nothing of its node any more."""
    gated: bool = False
    """Ours is the only gate that is left."""
    terminating: bool = False
    ready_at: float | None = None
    receipt: Receipt | None = None
    waiting: PendingReason | None = None
    unschedulable: str = ""
    """The scheduler's message, where it found no node for the pod."""
    # Fields and no properties: a decision asks for them a dozen times. They follow from the others, whatever is given.
    place: tuple[str, str] = ("", "")
    """(namespace, name)"""
    owner: Owner = ("", "")
    """Its ModelDeployment."""
    group: tuple[str, str, str, str] = ("", "", "", "")
    """Pods of one group are of one revision and kind, and ask for the same."""
    turn: tuple[float, str] = (0.0, "")
    """Among the pods of its namespace the smallest one is placed first."""
    claims_devices: bool = False
    """Does it get its devices by ResourceClaims?"""

    def __post_init__(self) -> None:
        put, namespace, deployment = msgspec.structs.force_setattr, self.namespace, self.deployment
        put(self, "place", (namespace, self.name))
        put(self, "owner", (namespace, deployment))
        put(self, "group", (namespace, deployment, self.kind, self.revision))
        put(self, "turn", (self.created_at, self.name))
        put(self, "claims_devices", bool((self.raw.get("spec") or {}).get("resourceClaims")))

    @property
    def refused(self) -> bool:
        """Bound by a receipt to a node where the scheduler says that it does not fit."""
        has_node = bool(self.receipt and self.receipt.node)
        return bool(self.unschedulable) and has_node and not self.scheduled and not self.terminating

    def unseen(self, sample: Sample | None) -> float:
        """How much of this pod's work the sample of its processor does not show: 1 none of it, 0 all."""
        # A pod that is not Ready is unseen however young the sample is: it still loads, and its work is yet to come.
        if self.ready_at is None or sample is None:
            return 1.0
        seen_s = sample.last_at - (self.ready_at + SETTLE_S)
        if seen_s < 0:
            return 1.0
        return 0.0 if seen_s >= sample.seconds else 1.0 - seen_s / sample.seconds


def model_pod(raw: Raw) -> PlacedPod:
    """The facts of a replica of a ModelDeployment, by its owner chain."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    receipt = receipts.parse(raw)
    gates = [each.get("name") for each in spec.get("schedulingGates") or ()]
    ready = find(status.get("conditions"), "Ready")
    return PlacedPod(
        uid=metadata["uid"],
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        resource_version=metadata.get("resourceVersion", ""),
        raw=raw,
        requests=requests_of(spec),
        created_at=unix(metadata.get("creationTimestamp")) or 0.0,
        deployment=labels.get(LABEL_DEPLOYMENT, ""),
        kind=annotations.get(ANNOTATION_KIND, KIND_CPU),
        revision=labels.get(REVISION_LABEL, metadata["name"]),
        node=spec.get("nodeName") or (receipt.node if receipt and not gates else ""),
        over=is_over(raw),
        scheduled=bool(spec.get("nodeName")),
        gated=gates == [SCHEDULING_GATE],
        terminating=is_leaving(raw),
        ready_at=unix(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None,
        receipt=receipt,
        waiting=receipts.pending_reason(raw) if gates else None,
        unschedulable="" if gates else unschedulable(raw),
    )
