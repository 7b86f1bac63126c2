"""Where an InferenceJob stands, and the actions that take it one step further; pure.

plan -> run (one index per shard) -> commit. Jobs are created once; afterwards only what the user may change is
patched, and only when the user changed it (ANNOTATION_WISH remembers), so that Kueue or an administrator may
suspend and resume them meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final, Literal

from batchwright_operator.jobs.children import (
    ANNOTATION_WISH,
    LABEL_QUEUE,
    DesiredSettings,
    Step,
    config_map,
    control_secret,
    network_policy,
    step_job,
)
from batchwright_operator.jobs.facts import ChildJob, JobFacts, Server, deployments_unknown
from batchwright_operator.kube.conditions import shorten
from batchwright_operator.kube.objects import CONFIG_MAP, JOB, NETWORK_POLICY, SECRET, Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.reconcile.decisions import Action, Apply, Create, Delete, Patch
from batchwright_operator.settings import Settings

Name = Literal["Waiting", "Suspended", "Planning", "Running", "Committing", "Completed", "Failed"]
AFTER: Final[dict[Name, Step]] = {"Planning": "plan", "Running": "run", "Committing": "commit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Where a job stands. `stalled`: nothing moves on unless somebody acts (Failed is final, this is not)."""

    name: Name
    reason: str
    message: str
    stalled: bool = False

    @property
    def ended(self) -> bool:
        return self.name in ("Completed", "Failed")


def phase_of(facts: JobFacts, *, failed_items: int, now: float) -> Phase:
    """The phase by what is observed alone; `failed_items` is what the runners have counted. A refusal of the API
    server changes what is said, never what is tried."""
    if (failure := _failure(facts, failed_items, now)) is not None:
        return Phase(name="Failed", reason=failure[0], message=shorten(failure[1]))
    if facts.commit is not None and facts.commit.complete:
        return Phase(name="Completed", reason="Completed", message="all shards are written and the manifest is whole")
    phase = _unended(facts)
    if facts.rejection is None:
        return phase
    text = f"the API server refused {facts.rejection.what}: {facts.rejection.message}"
    return replace(phase, reason="Rejected", message=shorten(text), stalled=True)


def _unended(facts: JobFacts) -> Phase:
    if facts.job.spec.suspend:
        text = "spec.suspend is true; what is complete stays complete"
        return Phase(name="Suspended", reason="Suspended", message=text)
    if facts.run is None and facts.commit is None and (obstacle := _obstacle(facts)) is not None:
        return obstacle
    phase = _step(facts)
    child = facts.children().get(AFTER[phase.name])
    queued = LABEL_QUEUE in facts.job.identity.labels
    if queued and child is not None and child.raw["spec"].get("suspend") and not child.ended:
        return replace(phase, reason="AwaitingAdmission", message="the queue has not admitted the Job yet")
    if (problem := facts.pod_problem) is None:
        return phase
    return replace(phase, reason=problem.reason, message=problem.message, stalled=True)


def _step(facts: JobFacts) -> Phase:
    if facts.commit is not None or (facts.run is not None and facts.run.complete):
        text = "the shards are verified and the manifest is written"
        return Phase(name="Committing", reason="Committing", message=text)
    if facts.run is not None or (facts.plan is not None and facts.plan.complete and facts.shards is not None):
        return Phase(name="Running", reason="Running", message="runners work on the shards")
    return Phase(name="Planning", reason="Planning", message="the input is read and split into shards")


def _obstacle(facts: JobFacts) -> Phase | None:
    """What keeps the first runner from being started."""
    if facts.missing_claims:
        text = (
            f"PersistentVolumeClaim {', '.join(facts.missing_claims)} does not exist in namespace "
            f"{facts.job.namespace}; create it"
        )
        return Phase(name="Waiting", reason="ClaimNotFound", message=text, stalled=True)
    if missing := [name for name in facts.job.deployments() if not facts.servers.get(name, Server()).exists]:
        text = f"there is no ModelDeployment {', '.join(missing)} in namespace {facts.job.namespace}; create it"
        return Phase(name="Waiting", reason="DeploymentMissing", message=text)
    if unknown := deployments_unknown(facts):
        text = f"{'; '.join(unknown)}; add it there, or make the job anew with a model that exists"
        return Phase(name="Waiting", reason="UnknownModel", message=text, stalled=True)
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
        text = f"{failed_items} items failed, spec.maxFailedItems is {limit}; see status.failures, then mend the input"
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
    said = f"{message}{f': {facts.last_words}' if facts.last_words else ''}"
    if step == "plan":
        return "PlanFailed", f"the input could not be planned: {said}"
    if step == "commit":
        found = facts.commit_result
        if found is not None and found.error:
            return found.reason or "CommitFailed", found.error
        return "CommitFailed", f"the output could not be committed: {said}"
    error = next((pod.state.error for pod in facts.pods if pod.exit_code and pod.state and pod.state.error), "")
    where = f"shard {child.failed_indexes}" if child.failed_indexes else "a shard"
    return "ShardFailed", f"{where} failed for good: {error or said}; complete shards are kept for the next job"


def deadline_of(facts: JobFacts) -> float | None:
    """Unix seconds; as in batch/v1 the time starts anew when a suspended job is resumed."""
    start, seconds = unix(facts.old.get("startTime")), facts.job.spec.active_deadline_seconds
    return None if start is None or seconds is None or resumes(facts) else start + seconds


def resumes(facts: JobFacts) -> bool:
    """Was the job suspended when its status was written, and is to run now?"""
    conditions = facts.old.get("conditions") or ()
    was = any(each.get("type") == "Suspended" and each.get("status") == "True" for each in conditions)
    return was and not facts.job.spec.suspend


# --- actions


def actions(facts: JobFacts, phase: Phase, settings: Settings, *, token: str, now: float) -> tuple[Action, ...]:
    """What the phase asks for."""
    if phase.ended:
        return tuple(_stop(facts))
    job = facts.job
    wanted: list[Action] = [
        Apply(resource=CONFIG_MAP, body=config_map(job)),
        Apply(resource=SECRET, body=control_secret(job, token)),
        Apply(resource=NETWORK_POLICY, body=network_policy(job, settings.operator_namespace)),
    ]
    step = AFTER.get(phase.name)
    if step == "plan" and facts.plan is not None and facts.plan.complete:
        # The plan is done, but what it said is lost with its pod: the same plan is made again.
        return (*wanted, Delete.of(JOB, facts.plan.raw))
    for name, child in facts.children().items():
        if not child.ended:
            wanted += _grant(child, _wish(facts, name, child, now))
    if step is not None and step not in facts.children():
        body = step_job(job, step, wish=_wish(facts, step, None, now), shards=facts.shards or 1, settings=settings)
        wanted.append(Create(resource=JOB, body=body))
    return tuple(wanted)


def _wish(facts: JobFacts, step: Step, child: ChildJob | None, now: float) -> DesiredSettings:
    spec = facts.job.spec
    stated = spec.active_deadline_seconds
    seconds = None
    if stated is not None:
        deadline = deadline_of(facts) or now + stated
        begun = child.start if child is not None and child.start is not None and not resumes(facts) else now
        seconds = max(1, ceil(deadline - begun))
    return DesiredSettings(
        suspend=spec.suspend,
        parallelism=min(spec.parallelism, facts.shards or 1) if step == "run" else 1,
        deadline_s=seconds,
        stated_deadline_s=stated,
    )


def _grant(child: ChildJob, wish: DesiredSettings) -> list[Action]:
    """Patch those parts of the Job whose wish is another than when it was last granted."""
    before, after = _parts(_granted(child)), _parts(wish.render())
    values: dict[str, Any] = {
        "suspend": wish.suspend,
        "parallelism": wish.parallelism,
        "deadline": wish.deadline_s,
    }
    names = {"suspend": "suspend", "parallelism": "parallelism", "deadline": "activeDeadlineSeconds"}
    changed = [part for part in names if before.get(part) != after.get(part)]
    if not changed:
        return []
    if "suspend" in changed and wish.deadline_s is not None:
        changed.append("deadline")
    return [_patch(child, wish.render(), {names[part]: values[part] for part in changed})]


def _granted(child: ChildJob) -> str:
    return str((child.raw["metadata"].get("annotations") or {}).get(ANNOTATION_WISH, ""))


def _parts(wish: str) -> dict[str, str]:
    return {name: value for name, _, value in (part.partition("=") for part in wish.split(",") if part)}


def _patch(child: ChildJob, wish: str, spec: Raw) -> Patch:
    metadata = child.raw["metadata"]
    return Patch(
        resource=JOB,
        namespace=metadata["namespace"],
        name=metadata["name"],
        patch={"metadata": {"annotations": {ANNOTATION_WISH: wish}}, "spec": spec},
        style="merge",
    )


def _stop(facts: JobFacts) -> Iterator[Action]:
    """The pods of what still runs go; the Jobs stay for whoever wants to look."""
    for child in facts.children().values():
        if not child.ended and _granted(child) != "stopped":
            yield _patch(child, "stopped", {"suspend": True})
