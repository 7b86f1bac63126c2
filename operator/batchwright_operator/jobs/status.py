"""The whole status of an InferenceJob, from facts; pure. A terminal status is written once, and never again: what it
says must not change when the pods and Jobs that it was read from are gone."""

from __future__ import annotations

from math import ceil
from typing import Any

from batchwright_operator.jobs.facts import JobFacts, Server
from batchwright_operator.jobs.phase import JobPhase, deadline_of, resumes
from batchwright_operator.jobs.progress import Progress, current_states, failures, tasks
from batchwright_operator.kube.conditions import Condition, holds, render, shorten, truth
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339, rfc3339_milli, unix
from batchwright_operator.reconcile.applied import STAMP
from batchwright_operator.status.write_policy import WriteDecision


def is_terminal(status: Raw) -> bool:
    """Complete or Failed: nothing but observedGeneration changes any more."""
    return holds(status.get("conditions"), "Complete") or holds(status.get("conditions"), "Failed")


def status_of(facts: JobFacts, phase: JobPhase, done: Progress, now: float) -> Raw:
    """The status without `lastUpdatedTime`."""
    old, generation = facts.old, facts.job.generation
    wanted = [
        *_outcome(phase),
        *_motion(facts, phase),
        _deadline_risk(facts, phase, done, now),
        _waiting_for_models(facts, phase),
    ]
    status: Raw = {
        "observedGeneration": generation,
        "conditions": render(wanted, old.get("conditions") or (), generation=generation, now=now),
        **_times(facts, phase, now),
        "shards": _shards(facts),
        "items": _items(done),
        "tasks": tasks(facts),
        "failures": failures(facts),
    }
    return status | _rates(phase, done) | {"summary": _summary(phase, done)}


# --- conditions


def _outcome(phase: JobPhase) -> list[Condition]:
    """Complete, Failed and Suspended, as batch/v1 has them."""
    holds_now = {"Complete": "Completed", "Failed": "Failed", "Suspended": "Suspended"}
    return [
        Condition(type=kind, status=truth(phase.name == name), reason=phase.reason, message=phase.message)
        for kind, name in holds_now.items()
    ]


def _motion(facts: JobFacts, phase: JobPhase) -> list[Condition]:
    """Reconciling while the first Job is still to come, or something keeps its pods from running; Stalled where that
    lasts, or only a person can fix it: a job that runs is neither (Current to kstatus)."""
    stalled = phase.stalled or phase.name == "Failed"
    begins = phase.waits or (phase.name == "Planning" and not facts.children())
    return [
        Condition(type=kind, status=truth(value), reason=phase.reason, message=phase.message)
        for kind, value in (("Reconciling", begins and not stalled), ("Stalled", stalled))
    ]


def _deadline_risk(facts: JobFacts, phase: JobPhase, done: Progress, now: float) -> Condition:
    deadline, kind = deadline_of(facts), "DeadlineAtRisk"
    if facts.job.spec.active_deadline_seconds is None:
        return Condition(
            type=kind, status="False", reason="NoDeadline", message="spec.activeDeadlineSeconds is not set"
        )
    if phase.ended or phase.name == "Suspended":
        return Condition(type=kind, status="False", reason=phase.reason)
    if deadline is None or done.remaining_s is None:
        return Condition(type=kind, status="Unknown", reason="NotMeasured", message="no rate has been measured yet")
    left_s = max(0.0, deadline - now)
    if done.remaining_s <= left_s:
        return Condition(type=kind, status="False", reason="InTime", message="the rest is done before the deadline")
    return Condition(type=kind, status="True", reason="TooSlow", message=_remedy(facts, done, left_s))


def _remedy(facts: JobFacts, done: Progress, left_s: float) -> str:
    """What would fix it, from the measured rate."""
    assert done.remaining_s is not None
    needed = ceil(facts.job.spec.parallelism * done.remaining_s / max(left_s, 1.0))
    shards = facts.shards or 1
    text = f"the rest takes about {done.remaining_s} s at {done.rate or 0:.2f} items/s, {int(left_s)} s are left; "
    if needed <= shards:
        names = ", ".join(facts.job.deployments())
        text += (
            f"set spec.parallelism to {needed} or more (with replicas of {names} to match)"
            if names
            else (f"set spec.parallelism to {needed} or more")
        )
        return text + ", or raise spec.activeDeadlineSeconds"
    return text + "raise spec.activeDeadlineSeconds, or give the models more replicas"


def _waiting_for_models(facts: JobFacts, phase: JobPhase) -> Condition:
    """Is there a model that nobody serves at present? The runners wait for it by themselves."""
    kind = "WaitingForModels"
    if phase.ended or not facts.job.deployments():
        reason = phase.reason if phase.ended else "NoModels"
        return Condition(type=kind, status="False", reason=reason)
    servers = {name: facts.servers.get(name, Server()) for name in facts.job.deployments()}
    if missing := [name for name, there in servers.items() if not there.exists]:
        text = f"there is no ModelDeployment {', '.join(missing)} in namespace {facts.job.namespace}; create it"
        return Condition(type=kind, status="True", reason="DeploymentMissing", message=text)
    if phase.reason in ("UnknownModel", "ClientCertificateMissing"):
        return Condition(type=kind, status="True", reason=phase.reason, message=phase.message)
    if idle := [_idle(name, there) for name, there in servers.items() if not there.ready_replicas]:
        return Condition(type=kind, status="True", reason="DeploymentNotReady", message=shorten("; ".join(idle)))
    if unanswered := sorted({name for state in current_states(facts) for name in state.waiting_for}):
        text = f"no replica of {', '.join(unanswered)} answers the runners; see its status and its pods' logs"
        return Condition(type=kind, status="True", reason="NoAnswer", message=text)
    return Condition(type=kind, status="False", reason="ModelsReady")


def _idle(name: str, there: Server) -> str:
    return f"ModelDeployment {name} has no ready replica{f' ({there.note})' if there.note else ''}"


# --- numbers


def _times(facts: JobFacts, phase: JobPhase, now: float) -> Raw:
    """startTime as in batch/v1: from the first Job on, and again from the time when the job is resumed."""
    old = facts.old
    begins = phase.name not in ("Waiting", "Suspended") and "startTime" not in old
    start = rfc3339(now) if begins or resumes(facts) else old.get("startTime")
    times = {} if start is None else {"startTime": start}
    if phase.name == "Completed":
        times["completionTime"] = old.get("completionTime") or rfc3339(now)
    return times


def _shards(facts: JobFacts) -> Raw:
    shards: Raw = {} if facts.shards is None else {"total": facts.shards}
    run = facts.run
    old = facts.old.get("shards") or {}
    completed = run.completed_indexes if run is not None else old.get("completedIndexes", "")
    failed = run.failed_indexes if run is not None else old.get("failedIndexes", "")
    return shards | {"completedIndexes": completed, "failedIndexes": failed}


def _items(done: Progress) -> Raw:
    total = {} if done.total is None else {"total": done.total}
    return {**total, "succeeded": done.succeeded, "failed": done.failed}


def _rates(phase: JobPhase, done: Progress) -> Raw:
    numbers: Raw = {}
    if done.rate is not None:
        numbers["throughput"] = f"{done.rate:.2f}"
    if done.percentage is not None:
        numbers["progressPercentage"] = done.percentage
    if phase.name == "Running" and done.remaining_s is not None:
        numbers["estimatedRemainingSeconds"] = done.remaining_s
    return numbers


def _summary(phase: JobPhase, done: Progress) -> Raw:
    rates = _rates(phase, done)
    summary: Raw = {"reason": phase.reason, "failed": done.failed}
    if "progressPercentage" in rates:
        summary["progress"] = f"{rates['progressPercentage']}%"
    if "throughput" in rates:
        summary["throughput"] = rates["throughput"]
    if "estimatedRemainingSeconds" in rates:
        summary["eta"] = duration(rates["estimatedRemainingSeconds"])
    return summary


def duration(seconds: int) -> str:
    """As kubectl writes it: 45s, 3m10s, 2h5m."""
    minutes, rest = divmod(seconds, 60)
    if not minutes:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m" if hours else f"{minutes}m{rest}s"


# --- write policy


def write_decision(old: Raw, new: Raw, now: float, interval_s: float) -> WriteDecision:
    """Conditions that turned at once, progress at most once per interval. There is no threshold as for a deployment's
    measured values: counts only grow, and a finished item is always worth showing."""
    before = {name: value for name, value in old.items() if name != STAMP}
    if before == new:
        return WriteDecision(status=None, why="nothing changed")
    age_s = now - (unix(old.get(STAMP)) or float("-inf"))
    if _turned(old) == _turned(new) and age_s < interval_s:
        return WriteDecision(status=None, why="progress was written just now", due_in_s=interval_s - age_s)
    return WriteDecision(status=new | {STAMP: rfc3339_milli(now)}, why="something changed")


def _turned(status: Raw) -> Any:
    conditions = [(each["type"], each["status"], each["reason"]) for each in status.get("conditions") or ()]
    shards = status.get("shards") or {}
    return status.get("observedGeneration"), conditions, shards.get("total"), shards.get("failedIndexes")
