"""Where an InferenceJob stands; pure. `plan` and `status` stand above it, and neither imports the other.

Waiting -> Planning -> Running (one index per shard) -> Committing -> Completed, and Failed or Suspended from anywhere.
The phase is never stored: it is read from the child Jobs on every pass, so that a restarted operator, a lost event or a
Job that somebody suspended cannot put it out of step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from batchwright_operator.jobs.children import LABEL_QUEUE, Step, was_applied_suspended
from batchwright_operator.jobs.facts import ChildJob, JobFacts, Server, deployments_unknown
from batchwright_operator.kube.conditions import find, shorten
from batchwright_operator.kube.metadata import why_still_there
from batchwright_operator.kube.times import unix
from batchwright_operator.pods.refusals import with_remedy
from batchwright_operator.status.progress_deadline import PROGRESS_DEADLINE_S, time_left_s

Name = Literal["Waiting", "Suspended", "Planning", "Running", "Committing", "Completed", "Failed"]
PODS_REFUSED: Final = "PodsNotCreated"
STEP_OF: Final[dict[Name, Step]] = {"Planning": "plan", "Running": "run", "Committing": "commit"}
"""The child Job that a phase is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPhase:
    """Where a job stands. `waits`: it stands still, and may move on by itself. `stalled`: it does so for longer than
    the progress deadline, or needs another spec (Failed is final, this is not). `due_in_s`: when time alone makes it
    stalled."""

    name: Name
    reason: str
    message: str
    stalled: bool = False
    waits: bool = False
    due_in_s: float | None = None

    @property
    def ended(self) -> bool:
        return self.name in ("Completed", "Failed")


def phase_of(facts: JobFacts, *, failed_items: int, now: float) -> JobPhase:
    """The phase by what is observed alone; `failed_items` is what the runners have counted. A refusal of the API
    server changes what is said, never what is tried."""
    if (failure := _failure(facts, failed_items, now)) is not None:
        return JobPhase(name="Failed", reason=failure[0], message=shorten(failure[1]))
    if facts.commit is not None and facts.commit.complete:
        return JobPhase(name="Completed", reason="Completed", message="all shards are written and so is the manifest")
    phase = _unended(facts)
    if (refused := facts.rejection) is not None:
        text = with_remedy(refused.text)
        phase = replace(
            phase, reason=refused.reason, message=text, stalled=refused.is_final, waits=not refused.is_final
        )
    return _in_time(facts, phase, now)


def _in_time(facts: JobFacts, phase: JobPhase, now: float) -> JobPhase:
    """The phase with what the time makes of it: what has waited for too long is stalled, until something else is."""
    if not phase.waits or phase.stalled:
        return phase
    written = find(facts.old.get("conditions"), "Stalled")
    was = written.get("status") == "True" and written.get("reason") == phase.reason
    if was and written.get("observedGeneration") == facts.job.generation:
        return replace(phase, stalled=True, waits=False)
    left_s = time_left_s(facts.old, generation=facts.job.generation, now=now, deadline_s=PROGRESS_DEADLINE_S)
    if phase.reason == PODS_REFUSED and facts.refusal is not None:
        left_s = min(left_s, facts.refusal.since + PROGRESS_DEADLINE_S - now)  # Events tell the time more exactly
    late = left_s <= 0
    return replace(phase, stalled=late, waits=not late, due_in_s=None if late else left_s)


def _unended(facts: JobFacts) -> JobPhase:
    if facts.job.spec.suspend:
        text = "spec.suspend is true; what is complete stays complete"
        return JobPhase(name="Suspended", reason="Suspended", message=text)
    if facts.run is None and facts.commit is None and (obstacle := _obstacle(facts)) is not None:
        return obstacle
    phase = _step(facts)
    if (halted := _halted(facts, phase)) is not None:
        return halted
    if facts.refusal is not None:
        text = f"pods cannot be created: {with_remedy(facts.refusal.message)}"
        return replace(phase, reason=PODS_REFUSED, message=text, waits=True)
    if (problem := facts.pod_problem) is None:
        return phase
    return replace(phase, reason=problem.reason, message=problem.message, waits=True)


def _halted(facts: JobFacts, phase: JobPhase) -> JobPhase | None:
    """The phase where its child Job may make no pods, being suspended or deleted by somebody else."""
    step = STEP_OF[phase.name]
    child = facts.children().get(step)
    if child is None:
        leaving = facts.leaving.get(step)
        if leaving is None:
            return None
        return replace(phase, reason="ChildLeaving", message=why_still_there("Job", leaving), waits=True)
    if child.ended or not child.raw["spec"].get("suspend"):
        return None
    if LABEL_QUEUE in facts.job.identity.labels:
        return replace(phase, reason="AwaitingAdmission", message="the queue has not admitted the Job yet")
    if was_applied_suspended(child.raw):
        return None
    name = child.raw["metadata"]["name"]
    text = f"Job {name} was suspended by somebody else, not by spec.suspend; it goes on once it is resumed"
    return replace(phase, reason="ChildSuspended", message=text)


def _step(facts: JobFacts) -> JobPhase:
    if facts.commit is not None or (facts.run is not None and facts.run.complete):
        text = "the shards are verified and the manifest is written"
        return JobPhase(name="Committing", reason="Committing", message=text)
    if facts.run is not None or (facts.plan is not None and facts.plan.complete and facts.shards is not None):
        return JobPhase(name="Running", reason="Running", message="runners work on the shards")
    return JobPhase(name="Planning", reason="Planning", message="the input is read and split into shards")


def _obstacle(facts: JobFacts) -> JobPhase | None:
    """What keeps the first runner from being started."""
    if facts.missing_claims:
        text = (
            f"PersistentVolumeClaim {', '.join(facts.missing_claims)} does not exist in namespace "
            f"{facts.job.namespace}; create it"
        )
        return JobPhase(name="Waiting", reason="ClaimNotFound", message=text, waits=True)
    if missing := [name for name in facts.job.deployments() if not facts.servers.get(name, Server()).exists]:
        text = f"there is no ModelDeployment {', '.join(missing)} in namespace {facts.job.namespace}; create it"
        return JobPhase(name="Waiting", reason="DeploymentMissing", message=text, waits=True)
    if unknown := deployments_unknown(facts):
        text = f"{'; '.join(unknown)}; add it there, or create the job again with a model that exists"
        return JobPhase(name="Waiting", reason="UnknownModel", message=text, waits=True)
    if nameless := [name for name, tls in facts.certificates.items() if tls.asks_clients and not tls.client_secret]:
        text = (
            f"ModelDeployment {', '.join(nameless)} serves only clients with a certificate and names none for jobs; "
            "write a Secret with tls.crt and tls.key into its spec.tls.jobsSecretRef"
        )
        return JobPhase(name="Waiting", reason="ClientCertificateMissing", message=text, waits=True)
    return None


# --- failure


def _failure(facts: JobFacts, failed_items: int, now: float) -> tuple[str, str] | None:
    """(reason, message) when the job cannot succeed any more."""
    result, limit = facts.plan_result, facts.job.spec.max_failed_items
    plan_ended = facts.plan is not None and facts.plan.ended
    if plan_ended and result is not None and result.error:
        return result.reason or "PlanFailed", result.error
    if plan_ended and result is not None and result.shards == 0:
        return "InputEmpty", f"{facts.job.spec.input.uri} holds no item; correct spec.input"
    for step, child in facts.children().items():
        if child.failure is not None and (found := _child_failure(facts, step, child)):
            return found
    if limit is not None and failed_items > limit:
        text = (
            f"{failed_items} items failed, spec.maxFailedItems is {limit}; see status.failures, then correct the input"
        )
        return "MaxFailedItemsExceeded", text
    deadline = deadline_of(facts)
    if deadline is not None and now >= deadline and not facts.job.spec.suspend:
        return _deadline_exceeded(facts)
    return None


def _deadline_exceeded(facts: JobFacts) -> tuple[str, str]:
    seconds = facts.job.spec.active_deadline_seconds
    return (
        "DeadlineExceeded",
        f"the job ran longer than spec.activeDeadlineSeconds ({seconds}); complete shards are kept",
    )


def _child_failure(facts: JobFacts, step: Step, child: ChildJob) -> tuple[str, str]:
    assert child.failure is not None
    reason, message = child.failure
    if reason == "DeadlineExceeded":
        return _deadline_exceeded(facts)
    said = f"{message}{f': {facts.last_message}' if facts.last_message else ''}"
    if step == "plan":
        return "PlanFailed", f"the input could not be planned: {said}"
    if step == "commit":
        found = facts.commit_result
        if found is not None and found.error:
            return found.reason or "CommitFailed", found.error
        return "CommitFailed", f"the output could not be committed: {said}"
    error = next((pod.state.error for pod in facts.pods if pod.exit_code and pod.state and pod.state.error), "")
    where = f"shard {child.failed_indexes}" if child.failed_indexes else "a shard"
    return "ShardFailed", f"{where} failed permanently: {error or said}; complete shards are kept for the next job"


def deadline_of(facts: JobFacts) -> float | None:
    """Unix seconds; as in batch/v1 the time starts again when a suspended job is resumed."""
    start, seconds = unix(facts.old.get("startTime")), facts.job.spec.active_deadline_seconds
    return None if start is None or seconds is None or resumes(facts) else start + seconds


def resumes(facts: JobFacts) -> bool:
    """Was the job suspended when its status was written, and is to run now?"""
    conditions = facts.old.get("conditions") or ()
    was = any(each.get("type") == "Suspended" and each.get("status") == "True" for each in conditions)
    return was and not facts.job.spec.suspend
