"""One model pod as facts: where it stands, and if it does not serve, why not and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from batchwright_operator.deployments.pod_template import SIDECAR
from batchwright_operator.kube.conditions import few, find, holds, shorten
from batchwright_operator.kube.metadata import annotation, is_leaving
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.placement.moves import ANNOTATION_DELETION_COST
from batchwright_operator.placement.receipts import parse, pending_reason
from batchwright_operator.pods.endings import ending
from batchwright_operator.pods.lifecycle import is_over, is_running
from batchwright_operator.pods.problems import (
    Problem,
    container_problem,
    scheduling_problem,
    unschedulable,
    volume_problem,
)
from batchwright_operator.processors.processor import AWAITING
from batchwright_worker.api.messages import Receipt, SidecarState
from batchwright_worker.api.names import ANNOTATION_KIND, SCHEDULING_GATE

IMAGE_FIELDS: Final = "the image or spec.pod.imagePullSecrets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A model pod; `state` is the newest state of its sidecar (None: not reported yet)."""

    name: str
    uid: str
    kind: str
    node: str = ""
    created: float = 0.0
    config: str = ""
    terminating: bool = False
    ended: str = ""
    """Why it is over, where nobody deleted it."""
    ready: bool = False
    waits_for_place: bool = False
    """It has no node, and not because the processors are still to be measured."""
    serves_state: bool = False
    """Its sidecar runs: a missing state is then one that is still to come."""
    deletion_cost: int = 0
    """What its ReplicaSet is told: pods of the lowest cost go first."""
    receipt: Receipt | None = None
    problem: Problem | None = None
    state: SidecarState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingTimeouts:
    """How to read a pod's age: how long it may wait for a place."""

    now: float
    no_fit_s: float


def replica(pod: Raw, state: SidecarState | None, timeouts: PendingTimeouts) -> Replica:
    """The facts of one pod."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    created = unix(metadata.get("creationTimestamp")) or timeouts.now
    ready = holds(status.get("conditions"), "Ready")
    node = str(spec.get("nodeName") or "")
    return Replica(
        name=metadata["name"],
        uid=metadata["uid"],
        kind=annotation(pod, ANNOTATION_KIND),
        node=node,
        created=created,
        config=config_of(spec),
        terminating=is_leaving(pod) or is_over(pod),
        ended=ending(pod),
        ready=ready,
        waits_for_place=not node and not _awaits_benchmark(pod),
        serves_state=is_running(pod, SIDECAR),
        deletion_cost=_deletion_cost(pod),
        receipt=parse(pod),
        problem=_problem(pod, state, timeouts) if not ready or has_failed_models(state) else None,
        state=state,
    )


def _deletion_cost(pod: Raw) -> int:
    try:
        return int(annotation(pod, ANNOTATION_DELETION_COST) or 0)
    except ValueError:
        return 0


def config_of(pod_spec: Mapping[str, Any]) -> str:
    """Name of the ConfigMap that a pod (template) mounts as its configuration."""
    for volume in pod_spec.get("volumes") or ():
        if volume.get("name") == "config":
            return str((volume.get("configMap") or {}).get("name", ""))
    return ""


def has_failed_models(state: SidecarState | None) -> bool:
    """Does the sidecar say that a model could not be loaded?"""
    return state is not None and any(model.state == "Failed" for model in state.models)


def _failed_models(state: SidecarState | None) -> list[str]:
    failed = [model for model in state.models if model.state == "Failed"] if state else []
    return [f"{model.name}: {shorten(model.message, 300)}" for model in failed]


def _problem(pod: Raw, state: SidecarState | None, timeouts: PendingTimeouts) -> Problem:
    name = pod["metadata"]["name"]
    if not (pod.get("spec") or {}).get("nodeName"):
        return _without_node(pod, timeouts)
    if failed := _failed_models(state):
        text = f"pod {name}: {few(failed, '; ')}; correct the artifact, or give the runtime what it needs"
        return Problem(reason="ModelLoadFailed", message=text, is_fault=True, weight=5)
    found = container_problem(pod, image_fields=IMAGE_FIELDS) or volume_problem(pod, timeouts.now) or _out_of_reach(pod)
    if found is not None:
        return found
    if state is not None and (loading := [model.name for model in state.models if model.state == "Loading"]):
        return Problem(reason="ModelLoading", message=f"pod {name} loads {few(loading)}", weight=1)
    if state is not None and not state.ready and state.message:
        return Problem(reason="NotReady", message=f"pod {name}: {state.message}", weight=1)
    return Problem(reason="Progressing", message=f"pod {name} starts")


def _out_of_reach(pod: Raw) -> Problem | None:
    """Has the node controller taken its readiness away? The kubelet, which decides on that by the containers, would
    have said so of them as well."""
    conditions, spec = (pod.get("status") or {}).get("conditions"), pod["spec"]
    is_taken = find(conditions, "Ready").get("status") == "False" and holds(conditions, "ContainersReady")
    if not is_taken or spec.get("readinessGates"):
        return None
    text = (
        f"pod {pod['metadata']['name']} ran on node {spec['nodeName']}, which does not answer; repair the node: the "
        "pod is replaced once its tolerations of that are over, or when it is deleted"
    )
    return Problem(reason="NodeNotReady", message=text, is_fault=True, weight=4)


def _is_gated(pod: Raw) -> bool:
    return any(gate.get("name") == SCHEDULING_GATE for gate in (pod.get("spec") or {}).get("schedulingGates") or ())


def _awaits_benchmark(pod: Raw) -> bool:
    pending = pending_reason(pod)
    return _is_gated(pod) and pending is not None and pending.reason == AWAITING


def _without_node(pod: Raw, timeouts: PendingTimeouts) -> Problem:
    metadata = pod["metadata"]
    late = timeouts.now - (unix(metadata.get("creationTimestamp")) or timeouts.now) >= timeouts.no_fit_s
    if _is_gated(pod):
        return _gated(pod, late=late)
    receipt = parse(pod)
    claims_devices = bool((pod.get("spec") or {}).get("resourceClaims"))  # left to the scheduler from the beginning
    if receipt is not None and not receipt.node and not claims_devices:
        return _no_fit(pod)
    if late and (problem := scheduling_problem(pod)):
        return problem
    return Problem(reason="AwaitingPlacement", message=f"pod {metadata['name']} waits for the scheduler", weight=1)


def _gated(pod: Raw, *, late: bool) -> Problem:
    """Placement says on the pod why it has no place; a pod that it has not looked at waits for that."""
    name, pending = pod["metadata"]["name"], pending_reason(pod)
    if pending is None:
        return Problem(reason="AwaitingPlacement", message=f"pod {name} waits for its placement", weight=1)
    waits_long = pending.reason != AWAITING and late
    weight = 3 if waits_long else 2
    return Problem(reason=pending.reason, message=f"pod {name}: {pending.message}", is_fault=waits_long, weight=weight)


def _no_fit(pod: Raw) -> Problem:
    """Placement gave up and released the pod unpinned; kube-scheduler's message says what it tried."""
    kind, name = annotation(pod, ANNOTATION_KIND), pod["metadata"]["name"]
    text = (
        f"no {kind} processor has room for pod {name}; add a node, free one, lower the requests in spec.runtimes, or "
        "give the models an artifact for another accelerator"
    )
    if message := unschedulable(pod):
        text += f" (scheduler: {shorten(message, 400)})"
    return Problem(reason="NoFittingProcessor", message=text, is_fault=True, weight=3)
