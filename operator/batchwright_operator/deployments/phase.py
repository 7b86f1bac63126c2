"""Where a ModelDeployment stands; pure. `plan` and `status` stand above it, and neither imports the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.rollout import Rollout
from batchwright_operator.kube.conditions import few, shorten
from batchwright_operator.pods.problems import Problem, worst

CLAIM_NOT_FOUND: Final = "ClaimNotFound"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPhase:
    """The one of the conditions Ready, Reconciling and Stalled that is True, and why."""

    name: Literal["Ready", "Reconciling", "Stalled"]
    reason: str
    message: str


def phase_of(facts: DeploymentFacts, rollout: Rollout) -> DeploymentPhase:
    """The phase by what is observed alone. What makes the spec impossible comes before what its pods say."""
    wanted, present = facts.deployment.spec.replicas, facts.present
    ready = sum(each.ready for each in present)
    count = f"{ready} of {wanted} replica{'' if wanted == 1 else 's'} ready"
    problem = _obstacle(facts) or _failure(rollout) or worst(_problems(facts))
    if problem is not None and problem.stalled:
        return DeploymentPhase(name="Stalled", reason=problem.reason, message=f"{count}; {problem.message}")
    # Counts alone would say Ready during a rollout: the old ReplicaSet's pods are ready, and there are enough of them.
    if not rollout.complete or ready != wanted or len(present) != wanted:
        if problem is None:
            problem = Problem(reason="Progressing", message="the pods are brought to what the spec says")
        return DeploymentPhase(name="Reconciling", reason=problem.reason, message=f"{count}; {problem.message}")
    if wanted == 0:
        text = "spec.replicas is 0: there is nothing to serve with"
        return DeploymentPhase(name="Ready", reason="ScaledToZero", message=text)
    return DeploymentPhase(name="Ready", reason="Available", message=count)


def _problems(facts: DeploymentFacts) -> list[Problem]:
    """Of its pods. With readiness Any a pod that serves has none: which models it lacks the condition ModelsReady
    says."""
    counts = facts.deployment.spec.readiness == "All"
    return [each.problem for each in facts.present if each.problem and (counts or not each.ready)]


def _obstacle(facts: DeploymentFacts) -> Problem | None:
    """What makes the spec impossible as it stands."""
    if facts.rejection is not None:
        return Problem(reason=facts.rejection.reason, message=facts.rejection.text, stalled=True)
    if not facts.kinds.plans:
        text = (
            "there is no accelerator that every model has an artifact and a runtime for: "
            f"{few(facts.kinds.refusals, '; ')}; add artifacts, or split the models into several deployments"
        )
        return Problem(reason="NoCommonAccelerator", message=text, stalled=True)
    if facts.missing_claims:
        text = (
            f"PersistentVolumeClaim {few(facts.missing_claims)} does not exist in namespace "
            f"{facts.deployment.namespace}; create it, or correct the pvc:// URI of the artifact"
        )
        return Problem(reason=CLAIM_NOT_FOUND, message=text, stalled=True)
    return None


def _failure(rollout: Rollout) -> Problem | None:
    if not rollout.failure:
        return None
    text = f"pods cannot be created: {shorten(rollout.failure, 600)}"
    return Problem(reason="PodsNotCreated", message=text, stalled=True, weight=6)
