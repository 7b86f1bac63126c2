"""The dry run of `kubectl batchwright plan`: what the operator would decide now, by its own code. Writes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from batchwright_operator.deployments.reconciler import ModelDeploymentReconciler
from batchwright_operator.errors import OperatorError
from batchwright_operator.kube.conditions import find, holds
from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import DEPLOYMENT, MODEL_DEPLOYMENT, POD, REPLICA_SET, Raw, Resource
from batchwright_operator.placement import receipts
from batchwright_operator.placement.reconciler import KEY as PLACEMENT_KEY
from batchwright_operator.placement.reconciler import PlacementReconciler
from batchwright_operator.plugin.cluster_view import ClusterView
from batchwright_operator.reconcile.decisions import Apply, Key, Patch
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import Receipt
from batchwright_worker.api.names import LABEL_KIND

NEW_UID = "00000000-0000-0000-0000-000000000000"


class NothingPlanned(OperatorError):  # noqa: N818 - what the operator would do
    """The operator would make no pods of the ModelDeployment; the message is the one of its condition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPod:
    """One pod that does not exist yet: its receipt, or why it would wait."""

    pod: str
    receipt: Receipt | None
    waiting: str


def reconcilers(settings: Settings, view: ClusterView) -> tuple[ModelDeploymentReconciler, PlacementReconciler]:
    """The operator's own reconcilers, with the live state of a view."""
    return ModelDeploymentReconciler(settings, view.live), PlacementReconciler(settings, view.live)


def plan(view: ClusterView, settings: Settings, desired: Raw) -> list[PlannedPod]:
    """Where the pods of `desired` that do not run yet would go, in the order in which they would be placed. Raises
    NothingPlanned."""
    now = time.time()
    deployments, placement = reconcilers(settings, view)
    store = view.store
    store.written(MODEL_DEPLOYMENT, desired)
    metadata = desired["metadata"]
    key = Key(reconciler=deployments.name, namespace=metadata["namespace"], name=metadata["name"])
    observed = deployments.observe(store, key)
    if observed is None:
        return []
    decision = deployments.decide(observed, now)
    children = [
        action.body for action in decision.actions if isinstance(action, Apply) and action.resource == DEPLOYMENT
    ]
    if not children:
        _raise_if_stalled(desired if decision.status is None else {"status": decision.status.status})
    for child in children:
        for resource, obj in _owners(child, view):
            store.written(resource, obj)
    for pod in _missing(children, view):
        store.written(POD, pod)
    facts = placement.observe(store, PLACEMENT_KEY)
    decided = placement.decide(facts, now).actions if facts else ()
    return [_placed(action) for action in decided if isinstance(action, Patch) and action.name.startswith("planned-")]


def _raise_if_stalled(told: Raw) -> None:
    """With the reason that the operator writes, or has written, into the status."""
    conditions = (told.get("status") or {}).get("conditions")
    if holds(conditions, "Stalled"):
        said = find(conditions, "Ready")
        raise NothingPlanned(f"no pod would be made: {said.get('reason')}: {said.get('message')}")


def as_desired(document: Raw, stored: Raw | None, namespace: str, replicas: int | None) -> Raw:
    """A manifest (or stored object) as the API server would store it: identity, version, number of replicas."""
    base = (stored or {}).get("metadata") or {}
    metadata = {"uid": NEW_UID, "generation": 1, **base, **document["metadata"], "resourceVersion": str(2**62)}
    metadata["namespace"] = document["metadata"].get("namespace") or namespace
    spec = dict(document.get("spec") or {})
    spec["replicas"] = replicas if replicas is not None else spec.get("replicas", 1)
    return {**document, "metadata": metadata, "spec": spec}


def _missing(children: list[Raw], view: ClusterView) -> Iterator[Raw]:
    """Gated pods for the replicas that are not there yet."""
    number = 0
    for child in children:
        labels = child["spec"]["template"]["metadata"]["labels"]
        namespace = child["metadata"]["namespace"]
        running = [
            pod
            for pod in view.store.all(POD, namespace=namespace)
            if labels.items() <= (pod["metadata"].get("labels") or {}).items() and not is_leaving(pod)
        ]
        for _ in range(max(0, child["spec"]["replicas"] - len(running))):
            number += 1
            yield _pod(child, f"planned-{number}", number, labels[LABEL_KIND])


def _owners(child: Raw, view: ClusterView) -> Iterator[tuple[Resource, Raw]]:
    """What the planned pods belong to: the Deployment, as it is or as it will be, and a ReplicaSet of it."""
    metadata = child["metadata"]
    live = view.store.get(DEPLOYMENT, metadata["namespace"], metadata["name"])
    if live is None:
        live = {**child, "metadata": {**metadata, "uid": f"planned-{metadata['name']}", "resourceVersion": str(2**62)}}
        yield DEPLOYMENT, live
    head = {
        "name": _replica_set(child),
        "namespace": metadata["namespace"],
        "uid": _replica_set(child),
        "resourceVersion": str(2**62),
        "labels": metadata["labels"],
        "ownerReferences": [_reference(DEPLOYMENT, live["metadata"]["name"], live["metadata"]["uid"])],
    }
    yield REPLICA_SET, {"metadata": head}


def _replica_set(child: Raw) -> str:
    """Name and uid of the planned ReplicaSet."""
    return f"{child['metadata']['name']}-planned"


def _reference(resource: Resource, name: str, uid: str) -> Raw:
    return {"kind": resource.kind, "name": name, "uid": uid, "controller": True}


def _pod(child: Raw, name: str, number: int, kind: str) -> Raw:
    template = child["spec"]["template"]
    metadata = {
        **template["metadata"],
        "name": name,
        "namespace": child["metadata"]["namespace"],
        "uid": f"planned-{kind}-{number}",
        "resourceVersion": str(2**62 + number),
        "creationTimestamp": "9999-01-01T00:00:00Z",
        "ownerReferences": [_reference(REPLICA_SET, _replica_set(child), _replica_set(child))],
    }
    return {"metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}}


def _placed(action: Patch) -> PlannedPod:
    patched = {"metadata": {"annotations": (action.patch.get("metadata") or {}).get("annotations") or {}}}
    waiting = receipts.pending_reason(patched)
    return PlannedPod(pod=action.name, receipt=receipts.parse(patched), waiting=waiting.render() if waiting else "")
