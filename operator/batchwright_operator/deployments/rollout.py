"""How far the rollout of a ModelDeployment's Deployments is; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix
from batchwright_worker.api.names import (
    GROUP,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What the apps/v1 Deployments say: is what was asked for what there is?

    `current`: are all pods that exist of the newest template? `was_complete`: was it rolled out once? `progressed`:
    when their controller last saw progress (Unix seconds, 0 never). `failure`: pods cannot be created.
    """

    complete: bool
    current: bool = False
    was_complete: bool = False
    progressed: float = 0.0
    failure: str = ""


ROLLED_OUT: Final = "NewReplicaSetAvailable"
"""Reason of a Deployment's condition Progressing from the time on when its newest template was rolled out."""
ANNOTATION_REVISION: Final = f"{GROUP}/revision"
"""On Deployments: digest of the spec that we applied, so that an older one is not taken for it."""


def rollout(deployments: Sequence[Raw], observed: Sequence[Raw]) -> Rollout:
    """Are the observed Deployments those wanted, seen by their controller, and brought to their newest template?"""
    there = {each["metadata"]["name"]: each for each in observed}
    same = there.keys() == {each["metadata"]["name"] for each in deployments}
    failures = [str(found["message"]) for each in observed if (found := _replica_failure(each))]
    pairs = [(each, there[each["metadata"]["name"]]) for each in deployments] if same else []
    current = same and all(_is_current(wanted, its) for wanted, its in pairs)
    progress = [_condition(each, "Progressing") for each in observed]
    return Rollout(
        complete=current and all(_count(its, "replicas") == wanted["spec"]["replicas"] for wanted, its in pairs),
        current=current,
        was_complete=current and all(found.get("reason") == ROLLED_OUT for found in progress),
        progressed=max((_since(found) for found in progress), default=0.0),
        failure=failures[0] if failures else "",
    )


def _replica_failure(obj: Raw) -> Mapping[str, Any]:
    found = _condition(obj, "ReplicaFailure")
    return found if found.get("status") == "True" else {}


def _condition(obj: Raw, kind: str) -> Mapping[str, Any]:
    return find((obj.get("status") or {}).get("conditions"), kind)


def _since(progressing: Mapping[str, Any]) -> float:
    return (unix(progressing.get("lastUpdateTime")) or 0.0) if progressing.get("status") == "True" else 0.0


def _count(obj: Raw, name: str) -> int:
    return int((obj.get("status") or {}).get(name, 0))


def is_available(deployment: Raw) -> bool:
    """Has its controller seen it, and are all its pods of the newest template, and available?"""
    status, count = deployment.get("status") or {}, int(deployment["spec"].get("replicas", 0))
    seen = int(status.get("observedGeneration", 0)) >= int(deployment["metadata"].get("generation", 0))
    return seen and all(
        int(status.get(name, 0)) == count for name in ("replicas", "updatedReplicas", "availableReplicas")
    )


def _is_current(wanted: Raw, observed: Raw) -> bool:
    mine, its = wanted["metadata"]["annotations"], observed["metadata"].get("annotations") or {}
    return (
        not is_leaving(observed)
        and its.get(ANNOTATION_REVISION) == mine.get(ANNOTATION_REVISION)
        and _count(observed, "observedGeneration") >= int(observed["metadata"].get("generation", 0))
        and _count(observed, "updatedReplicas") == _count(observed, "replicas")
    )
