"""Where a ModelDeployment stands; pure. `plan` and `status` stand above it, and neither imports the other.

Ready once all replicas of this generation have been rolled out and were ready together; from then on for as long as
enough of them are (`availability`), since one bad pod of a hundred is no outage. Otherwise on its way, and Stalled
where nothing but another spec helps, or nothing has moved for the progress deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from batchwright_operator.deployments.availability import needed_replicas
from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.live_configuration import Configured, configured_condition
from batchwright_operator.deployments.replicas import Replica
from batchwright_operator.deployments.rollout import Rollout
from batchwright_operator.kube.conditions import few, find
from batchwright_operator.kube.metadata import is_leaving, why_still_there
from batchwright_operator.pods.endings import Ended, ended_again
from batchwright_operator.pods.problems import Problem, worst
from batchwright_operator.pods.refusals import with_remedy
from batchwright_operator.processors.processor import AWAITING
from batchwright_operator.status.progress_deadline import DEADLINE_EXCEEDED, time_left_s

CLAIM_NOT_FOUND: Final = "ClaimNotFound"
NOT_CREATED: Final = "PodsNotCreated"
LEAVING: Final = "ChildLeaving"
OBSTACLES: Final = frozenset({CLAIM_NOT_FOUND, NOT_CREATED, LEAVING, "Rejected", "WebhookFailed"})
"""Reasons that concern all pods, and that go when somebody has changed something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPhase:
    """The one of the conditions Ready, Reconciling and Stalled that is True, and why.

    `stalled_by`: the reason of Progressing where it is Stalled. `due_in_s`: when time alone makes it Stalled.
    `is_fault`: somebody may have to act.
    """

    name: Literal["Ready", "Reconciling", "Stalled"]
    reason: str
    message: str
    ready: int
    needed: int
    wanted: int
    stalled_by: str = ""
    due_in_s: float | None = None
    is_fault: bool = False

    @property
    def available(self) -> bool:
        """Do enough replicas serve?"""
        return self.ready >= self.needed


def phase_of(facts: DeploymentFacts, rollout: Rollout, configured: Configured, now: float) -> DeploymentPhase:
    """The phase by what is observed, and by the conditions that are written, which say since when."""
    wanted, present, needed = facts.deployment.spec.replicas, facts.present, needed_replicas(facts.deployment)
    ready = _serving(facts)
    final = _impossible(facts)
    # Counts alone would say Ready during a rollout: the old ReplicaSet's pods are ready, and there are enough of them.
    complete = rollout.complete and ready == wanted == len(present) and not configured.behind
    kept = (rollout.current or facts.is_moving) and ready >= needed and _was_ready(facts)
    if facts.rejection is None and final is None and (complete or kept):
        return _ready(facts, rollout, ready, needed, now)
    problem = final or _obstacle(facts) or _failure(rollout) or worst(_problems(facts, now)) or _behind(configured)
    if problem is None:
        problem = Problem(reason="Progressing", message="the pods are brought to what the spec says")
    left_s = None if final is not None else _left_s(facts, rollout, problem, now, available=ready >= needed)
    stalled_by = (
        final.reason if final is not None else (DEADLINE_EXCEEDED if left_s is not None and left_s <= 0 else "")
    )
    return DeploymentPhase(
        name="Stalled" if stalled_by else "Reconciling",
        reason=problem.reason,
        message=f"{_count(ready, wanted)}; {problem.message}{_unused_kinds(facts)}",
        ready=ready,
        needed=needed,
        wanted=wanted,
        stalled_by=stalled_by,
        due_in_s=None if stalled_by else left_s,
        is_fault=problem.is_fault,
    )


def _ready(facts: DeploymentFacts, rollout: Rollout, ready: int, needed: int, now: float) -> DeploymentPhase:
    wanted = facts.deployment.spec.replicas
    if wanted == 0:
        reason, text = "ScaledToZero", "spec.replicas is 0: there is nothing to serve with"
    else:
        reason, text = "Available", _count(ready, wanted)
    problem = _obstacle(facts) or _failure(rollout) or worst(_problems(facts, now)) if ready < wanted else None
    message = (text if problem is None else f"{text}; {problem.message}") + _unused_kinds(facts)
    return DeploymentPhase(name="Ready", reason=reason, message=message, ready=ready, needed=needed, wanted=wanted)


def _unused_kinds(facts: DeploymentFacts) -> str:
    """A kind that some model names and none of the pods can have: nobody who bought one learns it otherwise."""
    refusals = facts.kinds.refusals if facts.kinds.plans else ()
    return f"; not used: {few(refusals, '; ')}" if refusals else ""


def _count(ready: int, wanted: int) -> str:
    return f"{ready} of {wanted} replica{'' if wanted == 1 else 's'} ready"


def _was_ready(facts: DeploymentFacts) -> bool:
    """Were all replicas of this generation ready once?"""
    written = find(facts.old.get("conditions"), "Ready")
    return written.get("status") == "True" and written.get("observedGeneration") == facts.deployment.generation


def _left_s(facts: DeploymentFacts, rollout: Rollout, problem: Problem, now: float, *, available: bool) -> float | None:
    """Seconds until it counts as Stalled; None where time alone does not make it so."""
    if problem.reason == AWAITING:
        return None  # it waits for us: the benchmark comes, or placement goes on without it
    if available and rollout.was_complete:
        return None  # more replicas than there is room for, as a Deployment that is scaled: what was rolled out serves
    if _is_still_late(facts, problem):
        return 0.0
    generation, deadline_s = facts.deployment.generation, facts.deployment.spec.progress_deadline_seconds
    return time_left_s(facts.old, generation=generation, now=now, deadline_s=deadline_s, progressed=rollout.progressed)


def _is_still_late(facts: DeploymentFacts, problem: Problem) -> bool:
    """Once it is late, progress is a replica that gets ready, or an obstacle that is gone: pods that come and go are
    what stalls it."""
    written, generation = facts.old.get("conditions"), facts.deployment.generation
    progressing, reason = find(written, "Progressing"), find(written, "Ready").get("reason")
    was_late = progressing.get("reason") == DEADLINE_EXCEEDED and progressing.get("observedGeneration") == generation
    moved = reason in OBSTACLES and reason != problem.reason
    return was_late and not moved and _serving(facts) <= int(facts.old.get("readyReplicas") or 0)


def _serving(facts: DeploymentFacts) -> int:
    """Replicas that serve what they should."""
    return sum(each.ready and _problem(facts, each) is None for each in facts.present)


def _problems(facts: DeploymentFacts, now: float) -> list[Problem]:
    ended = [Ended(name=each.name, created=each.created, why=each.ended) for each in facts.replicas if each.ended]
    again = ended_again(ended, now)
    of_pods = [found for each in facts.present if (found := _problem(facts, each)) is not None]
    return of_pods if again is None else [*of_pods, again]


def _problem(facts: DeploymentFacts, replica: Replica) -> Problem | None:
    """With readiness Any a pod that is ready has none: which models it lacks the condition ModelsReady says."""
    return replica.problem if facts.deployment.spec.readiness == "All" or not replica.ready else None


def _impossible(facts: DeploymentFacts) -> Problem | None:
    """What nothing but another spec (or another object's name) helps against."""
    if facts.rejection is not None and facts.rejection.is_final:
        return Problem(reason=facts.rejection.reason, message=with_remedy(facts.rejection.text), is_fault=True)
    if not facts.kinds.plans:
        text = (
            "there is no accelerator that every model has an artifact and a runtime for: "
            f"{few(facts.kinds.refusals, '; ')}; add artifacts, or split the models into several deployments"
        )
        return Problem(reason="NoCommonAccelerator", message=text, is_fault=True)
    return None


def _obstacle(facts: DeploymentFacts) -> Problem | None:
    """What keeps the pods as a whole from running, until somebody or something else has changed it."""
    if facts.rejection is not None:
        return Problem(reason=facts.rejection.reason, message=with_remedy(facts.rejection.text), is_fault=True)
    if leaving := [each for each in facts.deployments if is_leaving(each)]:
        return Problem(reason=LEAVING, message=why_still_there("Deployment", leaving[0]), is_fault=True)
    if facts.missing_claims:
        text = (
            f"PersistentVolumeClaim {few(facts.missing_claims)} does not exist in namespace "
            f"{facts.deployment.namespace}; create it, or correct the pvc:// URI of the artifact"
        )
        return Problem(reason=CLAIM_NOT_FOUND, message=text, is_fault=True)
    return None


def _behind(configured: Configured) -> Problem | None:
    if not configured.behind:
        return None
    said = configured_condition(configured)
    return Problem(reason="Configuring", message=said.message, is_fault=said.reason == "Refused")


def _failure(rollout: Rollout) -> Problem | None:
    if not rollout.failure:
        return None
    text = f"pods cannot be created: {with_remedy(rollout.failure)}"
    return Problem(reason=NOT_CREATED, message=text, is_fault=True, weight=6)
