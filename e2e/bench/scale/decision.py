"""What one placement decision costs, in this process, without a cluster."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, DEPLOYMENT, MODEL_DEPLOYMENT, NODE, POD, REPLICA_SET
from batchwright_operator.placement.reconciler import KEY, PlacementReconciler
from batchwright_operator.process.garbage import young_alone
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.live_state import LiveState, Sample
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import (
    ANNOTATION_KIND,
    COMPONENT_MODEL,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    SCHEDULING_GATE,
)
from e2e.bench.scale.bed import model_deployment
from e2e.bench.scale.cases import Result


def decision(*, quick: bool) -> Iterator[Result]:
    """One decision over 4,000 processors."""
    first, each = microseconds(4000, 500 if quick else 2000)
    yield Result(
        name="one decision over 4,000 processors",
        asked="<= 50 microseconds",
        seen=f"{each:.1f} us (the first of its kind: {first / 1e3:.1f} ms)",
        ok=each <= 50,
        figures={"us": each, "first_us": first},
    )


def microseconds(processors: int, pods: int) -> tuple[float, float]:
    """CPU of the first decision, and of one of those that follow, over this many processors, in microseconds."""
    first = _spent(processors, 1)
    return first, (_spent(processors, pods + 1) - first) / pods


def _spent(processors: int, pods: int) -> float:
    store, live = Store(), LiveState()
    reconciler = PlacementReconciler(Settings(), live)
    for watch in reconciler.watches():
        store.register(watch)
    _fill(store, live, processors, pods)
    observed = reconciler.observe(store, KEY)
    assert observed is not None
    gc.collect()
    with young_alone():  # as in the operator
        gc.freeze()
        began, placed = time.process_time(), 0
        while placed < pods:
            placed += len(reconciler.decide(observed, time.time()).actions)
        return 1e6 * (time.process_time() - began)


def _fill(store: Store, live: LiveState, processors: int, pods: int) -> None:
    """Ready nodes of one processor each, and this many gated pods of one deployment."""
    now = time.time()
    amounts = {"cpu": "64", "memory": "256Gi", "pods": "500"}
    row = {"batchSize": 8, "imagesPerSecond": "100", "maxServices": 8}
    entry = {"kind": "cpu", "capacityImagesPerSecond": "100", "loadTable": [row], "reason": "Benchmarked"}
    for number in range(processors):
        name = f"node-{number:05d}"
        status = {"allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}]}
        _put(store, NODE, _head(name, number), spec={}, status=status)
        _put(store, ACCELERATOR_PROFILE, _head(name, number), status={"processors": [entry]})
        live.samples[name, "cpu"] = Sample(utilization=number % 97 / 100, memory_utilization=0.1, taken_at=now)
    _owners(store, pods)
    for number in range(pods):
        _put(store, POD, _gated(number), spec=_spec(), status={})


def _put(store: Store, resource: Any, metadata: dict[str, Any], **rest: Any) -> None:
    store.written(resource, {"metadata": metadata, **rest})


def _head(name: str, number: int, owner: tuple[str, str] | None = None, namespace: str = "") -> dict[str, Any]:
    head: dict[str, Any] = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(number + 1)}
    if namespace:
        head["namespace"] = namespace
    if owner:
        kind, of = owner
        head["ownerReferences"] = [{"kind": kind, "name": of, "uid": f"uid-{of}", "controller": True}]
    return head


def _owners(store: Store, replicas: int) -> None:
    labels = {LABEL_DEPLOYMENT: "echo"}
    deployment = model_deployment("echo", replicas)
    _put(store, MODEL_DEPLOYMENT, _head("echo", 1, namespace="user"), spec=deployment["spec"])
    above = {**_head("echo-cpu", 1, ("ModelDeployment", "echo"), "user"), "labels": labels}
    _put(store, DEPLOYMENT, above, spec={})
    _put(store, REPLICA_SET, {**_head("echo-rs", 1, ("Deployment", "echo-cpu"), "user"), "labels": labels})


def _gated(number: int) -> dict[str, Any]:
    labels = {LABEL_COMPONENT: COMPONENT_MODEL, LABEL_DEPLOYMENT: "echo", "pod-template-hash": "x"}
    head = _head(f"pod-{number:05d}", number, ("ReplicaSet", "echo-rs"), "user")
    return {**head, "labels": labels, "annotations": {ANNOTATION_KIND: "cpu"}}


def _spec() -> dict[str, Any]:
    container = {"name": "runtime", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}
    return {"containers": [container], "schedulingGates": [{"name": SCHEDULING_GATE}]}
