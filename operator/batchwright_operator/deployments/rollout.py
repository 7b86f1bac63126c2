"""How far the rollout of a ModelDeployment's Deployments is; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import (
    Raw,
)
from batchwright_worker.api.names import (
    GROUP,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What the apps/v1 Deployments say: is what was asked for what there is? `failure`: pods cannot be created."""

    complete: bool
    failure: str = ""


ANNOTATION_REVISION: Final = f"{GROUP}/revision"
"""On Deployments: digest of the spec that we applied, so that an older one is not taken for it."""


def rollout(deployments: Sequence[Raw], observed: Sequence[Raw]) -> Rollout:
    """Are the observed Deployments those wanted, seen by their controller, and brought to their newest template?"""
    there = {each["metadata"]["name"]: each for each in observed}
    same = there.keys() == {each["metadata"]["name"] for each in deployments}
    failures = [str(found["message"]) for each in observed if (found := _replica_failure(each))]
    return Rollout(
        complete=same and all(_is_complete(each, there[each["metadata"]["name"]]) for each in deployments),
        failure=failures[0] if failures else "",
    )


def _replica_failure(obj: Raw) -> Mapping[str, Any]:
    found = find((obj.get("status") or {}).get("conditions"), "ReplicaFailure")
    return found if found.get("status") == "True" else {}


def _is_complete(wanted: Raw, observed: Raw) -> bool:
    mine, its = wanted["metadata"]["annotations"], observed["metadata"].get("annotations") or {}
    status, count = observed.get("status") or {}, wanted["spec"]["replicas"]
    return (
        its.get(ANNOTATION_REVISION) == mine[ANNOTATION_REVISION]
        and int(status.get("observedGeneration", 0)) >= int(observed["metadata"].get("generation", 0))
        and all(int(status.get(name, 0)) == count for name in ("replicas", "updatedReplicas"))
    )
